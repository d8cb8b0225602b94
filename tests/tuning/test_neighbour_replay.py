"""Neighbour replay: D against D with one record zeroed, under the same key.

What one record can change is what the guarantee is about: before the noise, the sums
are at most C(1 + 1e-4) apart, and everything else that can be seen (steps, coins, noise
draws, what the parent is told, the update's length) is the same, however long or strange
the record is, and even if memory runs out in one of the two runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import (
    SHAPES,
    VOCABULARY,
    Sums,
    base_model,
    make_plan,
    random_examples,
    tuned_model,
    zeroed,
)

from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning import local_round
from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.batches import Packing, poisson_units
from fedit_secure.tuning.checkpointing import checkpoint_layers
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig, OptimizerConfig, Progress
from fedit_secure.tuning.local_round import prepare_round, run_round

KEY = bytes(range(32))
SIZE = 40
RATES = {"empty": 0.0, "one": 0.01, "normal": 0.3, "huge": 1.0}


def drawn(batch: str) -> np.ndarray:
    """The logical batch of the first step that has the wanted size."""
    noise, rate = CryptoNoise(KEY), RATES[batch]
    for step in range(500):
        slots = poisson_units(noise, step, SIZE, rate)
        if batch != "one" or len(slots) == 1:
            return slots
    raise AssertionError("no such batch")


LONGEST = 100  # tokens of the longest record that there may be
STRANGE = VOCABULARY - 1  # see `overflow`
VICTIM = 7
RECORDS = {
    "longest": Example(np.full(LONGEST, 299), 1),
    "shortest": Example(np.array([5, 6]), 1),
    "long prompt": Example(np.full(LONGEST, 299), LONGEST - 1),
    "no response token": Example(np.full(LONGEST, 299), LONGEST),
    "one token": Example(np.array([5]), 1),
    "not finite": Example(np.array([5, STRANGE, 6]), 1),
    "longest, not finite": Example(np.full(LONGEST, STRANGE), 1),
}


def extreme(examples: list[Example], slot: int, kind: str = "longest") -> list[Example]:
    """A record as long and as strange as can be."""
    changed = list(examples)
    changed[slot] = RECORDS[kind]
    return changed


def overflow(model: PeftModel) -> PeftModel:
    """Make the loss of a record with the token `STRANGE` no number, after the checks."""
    with torch.no_grad():
        model.get_input_embeddings().weight[STRANGE] = torch.inf
    return model


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("batch", RATES)
@pytest.mark.parametrize("clip", [0.05, 50.0])
def test_sums_before_noise_are_within_the_clip(
    family: str, batch: str, clip: float
) -> None:
    model, slots = tuned_model(family), drawn(batch)
    records = random_examples(SIZE)
    victims = [int(s) for s in (slots[:2] if len(slots) else [3])]
    for victim in victims:
        for examples in (records, extreme(records, victim)):
            sums = []
            for data in (examples, zeroed(examples, victim)):
                gradient = Sums(model, data, clip=clip, budget=128)
                sums.append(gradient.sum(slots))
                gradient.close()
            distance = np.linalg.norm(sums[0] - sums[1])
            assert distance <= clip * (1 + 1e-4)
            if clip == 0.05 and len(slots):
                # The bound is tight: the record was in the batch, and was clipped.
                assert distance >= clip * (1 - 1e-3)


class Witness(CryptoNoise):
    """Writes down every use of the key."""

    log: list[tuple[object, ...]] = []  # noqa: RUF012 - one list a test

    def coins(self, step: int, slots: int, rate: float) -> np.ndarray:
        """As the parent's; noted with its result."""
        coins = super().coins(step, slots, rate)
        self.log.append(("coins", step, slots, rate, coins.tobytes()))
        return coins

    def keystream(
        self, step: int, tile: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """As the parent's; noted with a digest of its result."""
        words = super().keystream(step, tile, out)
        self.log.append(("normals", step, tile, hashlib.sha256(words).digest()))
        return words


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("budget", [16, 4000])
def test_every_kind_of_record_moves_the_sum_by_the_clip_at_most(
    kind: str, budget: int
) -> None:
    model, records = overflow(tuned_model()), random_examples(SIZE)
    sums = []
    for data in (extreme(records, VICTIM, kind), zeroed(records, VICTIM)):
        gradient = Sums(model, data, clip=0.05, budget=budget)
        sums.append(gradient.sum(np.arange(SIZE)))
        gradient.close()
        assert np.isfinite(sums[-1]).all()
    distance = np.linalg.norm(sums[0] - sums[1])
    assert distance <= 0.05 * (1 + 1e-4)
    if "not finite" in kind or kind in ("no response token", "one token"):
        assert distance <= 0.05 * 1e-4  # it counts as zero; only the padding moved


def witness(
    monkeypatch: pytest.MonkeyPatch,
    examples: list[Example],
    rate: float,
    disturb: Callable[[PeftModel], None] = lambda model: None,
) -> tuple[tuple[object, ...], np.ndarray]:
    """All that can be seen of a round, and its update; `disturb` after the checks."""
    monkeypatch.setattr(local_round, "CryptoNoise", Witness)
    model = tuned_model()
    Witness.log = []
    told: list[Progress] = []
    ready = prepare_round(
        model,
        make_plan(sample_rate=rate, local_steps=4),
        initial=read_adapter(model),
        max_tokens=LONGEST,
        token_budget=256,
    )
    overflow(model)
    disturb(model)
    update = run_round(
        ready,
        examples,
        OptimizerConfig(learning_rate=0.01),
        noise_key=KEY,
        on_phase=told.append,
    )
    assert np.isfinite(update).all()
    return (Witness.log, told, update.shape, update.dtype), update


@pytest.mark.parametrize("batch", RATES)
def test_everything_else_is_the_same(
    batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = max(RATES[batch], 1e-9)
    records = random_examples(SIZE)
    seen = [
        witness(monkeypatch, examples, rate)[0]
        for examples in (
            records,
            zeroed(records, VICTIM),
            *(extreme(records, VICTIM, kind) for kind in RECORDS),
            zeroed(zeroed(records, VICTIM), 8),
        )
    ]
    assert all(one == seen[0] for one in seen[1:])
    log, told, *_ = seen[0]
    uses = [(entry[0], entry[1]) for entry in log]  # type: ignore[attr-defined]
    assert uses == [(use, step) for step in range(4) for use in ("coins", "normals")]
    assert told == [Progress("tuning", step, 4) for step in (1, 2, 3, 4)]


class RunsOut:
    """Memory runs out in the first passes of the model, and then it's there again."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, model: PeftModel) -> None:
        """From now on."""
        model.get_input_embeddings().register_forward_pre_hook(self._forward)

    def _forward(self, *_: object) -> None:
        if self.left > 0:
            self.left -= 1
            raise torch.OutOfMemoryError("a record was too large")


@pytest.mark.parametrize("times", [1, 3])
def test_memory_that_runs_out_in_one_of_two_runs_is_not_seen(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, short = random_examples(SIZE), RunsOut(times)
    usual, update = witness(monkeypatch, records, 0.3)
    disturbed, again = witness(monkeypatch, records, 0.3, short)
    assert short.left == 0
    assert disturbed == usual
    # The same sums to float32 rounding, and so the same update but for AdamW's division.
    np.testing.assert_allclose(again, update, rtol=0, atol=1e-4)
    # A neighbour whose record is what used up the memory is seen as little.
    strange = extreme(records, VICTIM)
    assert witness(monkeypatch, strange, 0.3, RunsOut(1))[0] == usual


def test_memory_that_runs_out_for_a_neighbour_moves_the_sum_by_the_clip_at_most() -> (
    None
):
    model, records, clip = tuned_model(), random_examples(SIZE), 0.05
    sums = []
    for data, times in ((extreme(records, VICTIM), 2), (zeroed(records, VICTIM), 0)):
        gradient = Sums(model, data, clip=clip, budget=512)
        RunsOut(times)(model)
        sums.append(gradient.sum(np.arange(SIZE)))
        gradient.close()
    distance = np.linalg.norm(sums[0] - sums[1])
    assert clip * (1 - 1e-3) <= distance <= clip * (1 + 1e-4)


def checkpointed() -> PeftModel:
    model = tuned_model(layers=2)
    checkpoint_layers(model)
    return model


def dropping() -> PeftModel:
    model = attach_adapter(base_model(), LoraConfig(rank=3, dropout=0.3))
    vector = np.random.default_rng(3).normal(0, 0.3, read_adapter(model).shape)
    write_adapter(model, vector.astype("f4"))
    return model


def tied() -> PeftModel:
    base = base_model()
    base.config.tie_word_embeddings = True
    base.lm_head.weight = base.model.embed_tokens.weight
    model = attach_adapter(base, LoraConfig(rank=3))
    vector = np.random.default_rng(3).normal(0, 0.3, read_adapter(model).shape)
    write_adapter(model, vector.astype("f4"))
    return model


def halved() -> PeftModel:
    model = tuned_model()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    return model


WAYS: dict[str, tuple[Callable[[], PeftModel], dict[str, Any]]] = {
    "layers run again backwards": (checkpointed, {}),
    "dropout": (dropping, {"dropout_key": KEY}),
    "tied weights": (tied, {}),
    "a bfloat16 base": (
        halved,
        {"packing": Packing.fixed(512, LONGEST), "selective": False},
    ),
    "persons of up to three records": (
        tuned_model,
        {
            "packing": Packing(128, unit_rows=3),
            "units": [np.array(u) for u in np.array_split(np.arange(SIZE), 15)],
        },
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_in_every_way_of_tuning_a_unit_moves_the_sum_by_the_clip_at_most(
    way: str,
) -> None:
    make, options = WAYS[way]
    clip, records, model = 0.05, random_examples(SIZE), make()
    everyone = np.arange(len(options.get("units", records)))
    members = options["units"][4].tolist() if "units" in options else [VICTIM]
    for slots in (members[:1], members):
        sums = []
        changed, gone = list(records), list(records)
        for slot in slots:
            changed[slot] = Example(np.full(LONGEST, 299), 1)
        for slot in members:
            gone = zeroed(gone, slot)
        for data in (changed, gone):
            gradient = Sums(model, data, clip=clip, **{"budget": 128, **options})
            sums.append(gradient.sum(everyone))
            gradient.close()
        distance = np.linalg.norm(sums[0] - sums[1])
        assert clip * (1 - 1e-3) <= distance <= clip * (1 + 1e-4)
