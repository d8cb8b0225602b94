"""What is held out is never tuned on, and one unit of it moves the figure by C/2 at most."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_neighbour_replay import LONGEST, RECORDS, STRANGE, overflow, zeroed
from test_worker import make_job, tune
from tiny_models import SHAPES, base_model, make_plan, random_examples, tuned_model

from fedit_secure.errors import ConfigError
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.noise import GRID
from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.batches import Packing
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.held_out import (
    HeldOut,
    clipped_sum,
    evaluate,
    own_figure,
    released_figure,
    score_units,
    set_apart,
)
from fedit_secure.tuning.job import (
    ColumnMap,
    DataSource,
    HeldOutSource,
    LoraConfig,
    OptimizerConfig,
    OwnFigure,
)
from fedit_secure.tuning.local_round import ReadyRound, prepare_round, run_round
from fedit_secure.tuning.records import Record, load_records, record_bytes
from fedit_secure.tuning.units import held_out_units, make_units

KEY = bytes(range(32))
SIZE = 40
OWN = EvaluationPlan(clip=10.0, noise_multiplier=2.0, expected=10)
VICTIM = 8
APART = range(0, SIZE, 4)  # of the records
UNITS = tuple(np.array([slot], np.int64) for slot in APART)


# ----------------------------------------------------------------- who is held out


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def rows(count: int, persons: int | None = None) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for number in range(count):
        made.append({"instruction": f"ask {number}", "response": f"say {number}"})
        if persons is not None:
            made[-1]["patient"] = f"p{number % persons}"
    return made


def load(path: Path, fraction: float, person: str | None = None) -> list[Record]:
    held_out = HeldOutSource(fraction=fraction)
    columns = ColumnMap(person=person)
    return load_records(DataSource(path=str(path), columns=columns, held_out=held_out))


def apart(records: list[Record]) -> set[str]:
    return {record.instruction for record in records if record.held_out}


def test_a_fraction_depends_on_no_other_record_and_on_no_order(tmp_path: Path) -> None:
    made = rows(2000)
    held_out = apart(load(write(tmp_path / "a.jsonl", made), 0.1))
    # Five standard deviations of 2,000 coins.
    assert abs(len(held_out) - 200) < 5 * math.sqrt(2000 * 0.1 * 0.9)
    half = write(tmp_path / "half.jsonl", made[1000:][::-1])
    assert apart(load(half, 0.1)) == held_out & {
        row["instruction"] for row in made[1000:]
    }
    # A larger one holds out those and others.
    assert apart(load(tmp_path / "a.jsonl", 0.3)) > held_out


def test_a_person_is_held_out_with_all_records_in_every_silo(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(300, persons=60))
    records = load(path, 0.2, person="patient")
    who = {record.person for record in records if record.held_out}
    assert 0 < len(who) < 60
    assert all((record.person in who) == record.held_out for record in records)
    assert held_out_units(records, "person") == len(who)
    elsewhere = [
        {"instruction": "x", "response": "y", "patient": f"p{i}"} for i in range(9)
    ]
    other = load(write(tmp_path / "b.jsonl", elsewhere), 0.2, person="patient")
    assert [r.held_out for r in other] == [f"p{i}" in who for i in range(9)]


def test_being_held_out_is_no_part_of_what_a_record_says() -> None:
    record = Record("i", "", "r")
    assert replace(record, held_out=True) == record
    assert record_bytes(replace(record, held_out=True)) == b'["i", "", "r", null, null]'


def test_records_of_their_own_file_come_last_and_are_nobody_elses(
    tmp_path: Path,
) -> None:
    first, second = rows(6, persons=3), rows(4)
    for row in second:
        row["patient"] = "q"
    tuned, held_out = write(tmp_path / "t.jsonl", first), tmp_path / "h.jsonl"
    source = DataSource(
        path=str(tuned),
        columns=ColumnMap(person="patient"),
        held_out=HeldOutSource(path=str(write(held_out, second))),
    )
    records = load_records(source)
    assert [record.held_out for record in records] == [False] * 6 + [True] * 4
    # A person of both files, and then a record that names none.
    write(held_out, [*second, first[0] | {"instruction": "another"}])
    with pytest.raises(ConfigError, match=r"1 persons or records are in .*h\.jsonl"):
        load_records(source)
    write(held_out, rows(3))
    plain = source.model_copy(update={"columns": ColumnMap()})
    with pytest.raises(
        ConfigError, match=r"3 persons or records .*t\.jsonl, to be tuned"
    ):
        load_records(plain)


@pytest.mark.parametrize("wrong", [{}, {"fraction": 0.1, "path": "h.jsonl"}])
def test_held_out_is_a_fraction_or_a_path(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a fraction or a path"):
        HeldOutSource(**wrong)


# -------------------------------------------------------------------- what is tuned on


def prepared(model: PeftModel) -> ReadyRound:
    initial = read_adapter(model)
    return prepare_round(
        model, make_plan(), initial=initial, max_tokens=LONGEST, token_budget=256
    )


def tuned_on(examples: list[Example]) -> tuple[np.ndarray, HeldOut]:
    """The update of a round without its noise's help: the same key at every call."""
    records = [Record("i", "", "r", held_out=i in APART) for i in range(SIZE)]
    tuned, held_out = set_apart(records, examples, None)
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1)
    return run_round(prepared(tuned_model()), tuned, optimizer, noise_key=KEY), held_out


def test_no_held_out_record_has_a_part_in_the_update() -> None:
    examples = random_examples(SIZE)
    update, held_out = tuned_on(examples)
    assert [int(unit[0]) for unit in held_out.units] == list(APART)
    changed = list(examples)
    for slot in APART:
        changed[slot] = RECORDS["longest"]
    assert np.array_equal(tuned_on(changed)[0], update)
    # One that is tuned on has.
    changed[1] = RECORDS["longest"]
    assert not np.array_equal(tuned_on(changed)[0], update)


def test_a_held_out_person_keeps_one_coin_and_one_figure() -> None:
    records = [Record(str(i), "", "r", person=f"p{i % 3}") for i in range(9)]
    records = [replace(r, held_out=r.person == "p1") for r in records]
    units = make_units(records, "person", 2, KEY)
    tuned, held_out = set_apart(records, random_examples(9), units)
    assert [len(unit) for unit in held_out.units] == [2]
    assert [example.labels > 0 for example in tuned] == [i % 3 != 1 for i in range(9)]


# -------------------------------------------------------------------- neighbour replay


def scored(model: PeftModel, examples: list[Example], **packing: Any) -> np.ndarray:
    ready = prepared(model)
    if packing:
        ready = replace(ready, packing=Packing.fixed(256, LONGEST))
    return score_units(ready, HeldOut(examples, UNITS))


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("clip", [0.5, 10.0])
def test_one_record_moves_the_sum_by_half_the_clip_at_most(
    family: str, clip: float
) -> None:
    model, plan = tuned_model(family), replace(OWN, clip=clip)
    moved = []
    for record in [None, *RECORDS.values()]:
        examples = random_examples(SIZE)
        if record is not None:
            if STRANGE in record.tokens:
                continue
            examples[VICTIM] = record
        sums = [
            clipped_sum(scored(model, data), plan)
            for data in (examples, zeroed(examples, VICTIM))
        ]
        moved.append(abs(sums[0] - sums[1]))
        assert moved[-1] <= plan.bound
    if clip == 0.5:
        # The bound is tight: what is beyond the clip counts for half of it.
        assert max(moved) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("kind", ["not finite", "longest, not finite"])
def test_a_figure_that_is_no_number_counts_as_if_it_werent_there(kind: str) -> None:
    """The lying record: its loss is no number, and the others' figures are untouched."""
    model, examples = tuned_model(), random_examples(SIZE)
    for slot, example in enumerate(examples):
        examples[slot] = Example(example.tokens % 200 + 3, example.first_label)
    lying = list(examples)
    lying[VICTIM] = RECORDS[kind]
    ready = prepared(model)
    overflow(model)  # after the checks, which would refuse it
    nlls = score_units(ready, HeldOut(lying, UNITS))
    place = list(APART).index(VICTIM)
    assert not math.isfinite(nlls[place])
    without = score_units(ready, HeldOut(zeroed(examples, VICTIM), UNITS))
    assert np.isfinite(without).sum() == len(APART) - 1
    assert clipped_sum(nlls, OWN) == pytest.approx(clipped_sum(without, OWN), abs=1e-4)
    assert own_figure(nlls).unscored == 1
    assert math.isfinite(float(released_figure(nlls, OWN, KEY)))


def test_a_record_without_response_tokens_and_none_at_all_contribute_zero() -> None:
    model, examples = tuned_model(), random_examples(SIZE)
    for slot in APART:
        examples[slot] = RECORDS["no response token"]
    nlls = scored(model, examples)
    assert np.isnan(nlls).all()
    assert clipped_sum(nlls, OWN) == 0.0
    assert own_figure(nlls) == OwnFigure(None, 0, len(APART))
    nobody = score_units(prepared(model), HeldOut(examples, ()))
    assert nobody.shape == (0,)
    # As noisy as ever: nobody can tell that nothing is held out.
    assert released_figure(nobody, OWN, KEY) == released_figure(nlls, OWN, KEY) != 0


def test_fixed_shapes_give_the_others_the_same_figures_to_the_last_bit() -> None:
    model = attach_adapter(base_model().to(torch.bfloat16), LoraConfig(rank=3, alpha=6))
    write_adapter(model, read_adapter(tuned_model()))
    examples = random_examples(SIZE)
    longer = list(examples)
    longer[VICTIM] = RECORDS["longest"]
    others = [n for n, slot in enumerate(APART) if slot != VICTIM]
    first = scored(model, longer, fixed=True)
    assert np.array_equal(
        first[others], scored(model, zeroed(examples, VICTIM), fixed=True)[others]
    )


def test_a_persons_figure_is_one_mean_and_is_clipped_once() -> None:
    model, examples = tuned_model(), random_examples(SIZE)
    alone = scored(model, examples)
    together = score_units(prepared(model), HeldOut(examples, (np.array(list(APART)),)))
    assert together == pytest.approx([alone.mean()], rel=1e-5)
    plan = replace(OWN, clip=0.5)
    assert alone.mean() > 0.5
    assert clipped_sum(together, plan) == 0.25


# ----------------------------------------------------------------------- what is released


def test_the_noise_is_of_the_planned_size_and_on_a_grid() -> None:
    nlls, plan = np.array([2.0, 30.0, 4.0]), replace(OWN, noise_multiplier=3.0)
    due = (2.0 + 10.0 + 4.0 - 3 * 5.0) / plan.expected
    drawn = [released_figure(nlls, plan, bytes([n]) * 32) for n in range(200)]
    figures = np.array(drawn, np.float64)
    assert abs(figures.mean() - due) < 4.5 * plan.deviation / 200**0.5
    assert abs(figures.std() / plan.deviation - 1) < 4.5 / 400**0.5
    steps = figures * plan.expected / (GRID * plan.bound)
    assert np.abs(steps - np.rint(steps)).max() < 0.5  # float32's rounding is coarser
    quiet = replace(plan, noise_multiplier=0.0)
    assert released_figure(nlls, quiet, KEY) == np.float32(due)


def test_evaluation_is_of_the_state_that_the_round_starts_from() -> None:
    model, examples = tuned_model(), random_examples(SIZE)
    ready, held_out = prepared(model), HeldOut(examples, UNITS)
    told: list[OwnFigure] = []
    figure = evaluate(ready, held_out, OWN, noise_key=KEY, on_figure=told.append)
    assert figure.dtype == np.float32
    assert figure.shape == (1,)
    assert told == [own_figure(scored(tuned_model(), examples))]
    assert np.array_equal(read_adapter(model), ready.initial)
    # Nothing leaves where nothing is to leave, and the silo has its own figure.
    assert (
        evaluate(ready, held_out, None, noise_key=KEY, on_figure=told.append).size == 0
    )
    assert evaluate(ready, None, None, noise_key=KEY, on_figure=told.append).size == 0
    assert told[0] == told[1]
    assert len(told) == 2


def test_a_worker_puts_the_figure_behind_its_update(job_files: Any) -> None:
    held_out = HeldOutSource(fraction=0.4)
    data = DataSource(path=str(job_files.data), held_out=held_out)
    evaluation = {"clip": 10.0, "noise_multiplier": 2.0, "expected": 5}
    plan = make_plan().as_dict()
    job = make_job(job_files, data=data, plan=plan | {"evaluation": evaluation})
    update, told = tune(job)
    assert update.shape == (job.update_length,) == (job.length + 1,)
    assert abs(update[-1]) < 5 + 8 * EvaluationPlan(**evaluation).deviation
    own = next(said for said in told if said["phase"] == "evaluated")
    count = sum(record.held_out for record in load_records(data))
    assert own["units"] == count > 0
    assert [said["phase"] for said in told][:3] == ["loading", "ready", "evaluated"]
    kept, told = tune(job.model_copy(update={"plan": plan}))
    assert kept.shape == (job.length,)
    assert "evaluated" in [said["phase"] for said in told]


def test_a_worker_that_holds_nothing_out_refuses_before_it_loads(
    job_files: Any,
) -> None:
    evaluation = {"clip": 10.0, "noise_multiplier": 2.0, "expected": 5}
    job = make_job(job_files, plan=make_plan().as_dict() | {"evaluation": evaluation})
    with pytest.raises(ConfigError, match="doesn't say which they are"):
        tune(job)
