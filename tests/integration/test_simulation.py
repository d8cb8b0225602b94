"""`fedit_secure.simulate`: a whole federation in one process."""

from __future__ import annotations

import json
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
import torch
from integration.opened_adapters import require_same_logits
from safetensors.numpy import load_file

import fedit_secure
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.privacy.ledger import recompute
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.run import Tuner, run_in_memory, run_plan
from fedit_secure.tuning.job import DataSource


@pytest.fixture
def simulation(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> fedit_secure.Simulation:
    return fedit_secure.simulate(records, plan, folder=tmp_path / "run")


def test_it_moves_the_adapter_and_saves_it_for_peft(
    simulation: fedit_secure.Simulation, tiny_base: Path
) -> None:
    assert np.abs(simulation.adapter).max() > 0
    last = tensors(simulation.folder / "rounds" / "002")
    for key, value in tensors(simulation.folder).items():
        assert np.array_equal(value, last[key])
    require_same_logits(simulation, tiny_base)


def test_epsilon_is_what_the_entries_say(simulation: fedit_secure.Simulation) -> None:
    """The printed epsilon, and one recomputed by dp-accounting from the entries alone."""
    for name, printed in simulation.epsilons.items():
        path = simulation.folder / "ledgers" / f"{name}.jsonl"
        entries = path.read_bytes().splitlines()
        again = recompute(entries, 1e-3)
        assert again.published == pytest.approx(printed, abs=1e-6)
        intents = [e for e in map(json.loads, entries) if e["kind"] == "intent"]
        assert len(intents) == 2
        accountant = dp_accounting.pld.PLDAccountant(
            dp_accounting.NeighboringRelation.REPLACE_SPECIAL
        )
        for intent in intents:
            step = dp_accounting.PoissonSampledDpEvent(
                intent["sample_rate"],
                dp_accounting.GaussianDpEvent(intent["noise_multiplier"]),
            )
            accountant.compose(dp_accounting.SelfComposedDpEvent(step, intent["steps"]))
        by_dp_accounting = accountant.get_epsilon(1e-3)
        assert again.pld == pytest.approx(by_dp_accounting, abs=1e-6)
        # What is published is the larger of two accountants, so never below this one.
        assert by_dp_accounting <= printed + 1e-6
        assert printed <= 8.0


def test_the_ledger_travels_before_the_sum(simulation: fedit_secure.Simulation) -> None:
    for name in simulation.epsilons:
        path = simulation.folder / "ledgers" / f"{name}.jsonl"
        kinds = [json.loads(line)["kind"] for line in path.read_bytes().splitlines()]
        assert kinds[0] == "opened"
        for released in (i for i, kind in enumerate(kinds) if kind == "released"):
            assert "intent" in kinds[:released]
            assert "revealed" in kinds[:released]


async def test_a_policy_refuses_before_anything_is_spent(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> None:
    sources = {name: DataSource(path=str(path)) for name, path in records.items()}
    tight = Policy(epsilon=0.5, delta=1e-3, tell_record_count=True)
    federation = found_federation(
        tmp_path / "run", run_plan(plan), sources, policy=tight
    )
    with pytest.raises(PolicyRefusal) as refused:
        await run_in_memory(federation, Tuner(federation))
    assert refused.value.exit_status == 7


def test_the_torch_threads_are_the_callers_again(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    heard = set()

    def run(name: str, plan: dict[str, object]) -> None:
        fedit_secure.simulate(
            records,
            plan,
            folder=tmp_path / name,
            threads=before + 1,
            on_event=lambda event: heard.add(torch.get_num_threads()),
        )

    run("whole", {**plan, "rounds": 1})
    assert heard == {before + 1}
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError):
        run("refused", {**plan, "rounds": 0})
    assert torch.get_num_threads() == before


def test_secret_sizes_tell_nobody_how_many_records_there_are(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> None:
    dp = {**plan["dp"], "sizes": "secret", "sample_rate": 0.25}  # type: ignore[dict-item]
    secret = fedit_secure.simulate(
        records, {**plan, "dp": dp, "rounds": 1}, folder=tmp_path / "run"
    )
    assert all(row.records is None for row in secret.charter.roster)
    assert len({row.dp for row in secret.charter.roster}) == 1
    entries = (secret.folder / "ledgers" / "north.jsonl").read_bytes()
    opened, intent = (json.loads(entry) for entry in entries.splitlines()[:2])
    assert opened["adjacency"] == "add-or-remove"
    assert (intent["sample_rate"], intent["sizes"]) == (0.25, "secret")


def tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("aggregation", "moves"), [("ffa", ["B", "B"]), ("alternating", ["B", "A"])]
)
def test_a_round_releases_and_moves_its_factor_alone(
    plan: dict[str, object],
    records: dict[str, Path],
    tmp_path: Path,
    tiny_base: Path,
    aggregation: str,
    moves: list[str],
) -> None:
    """With momentum on the server, whose memory of the other factor stays too."""
    changed = {
        "lora": {"rank": 2, "aggregation": aggregation},
        "update_rule": {"name": "fedavgm", "momentum": 0.5},
    }
    few = {name: records[name] for name in ("north", "south", "east")}
    done = fedit_secure.simulate(few, {**plan, **changed}, folder=tmp_path / "run")
    charter = done.charter
    assert charter.release_length < charter.length
    uploaded = charter.secagg_params().payload_bytes
    assert uploaded == 3 * charter.release_length + 8
    initial = to_float32(
        GridState.from_bytes(
            (
                done.folder / "states" / (f"{charter.adapter.initial_digest}.state")
            ).read_bytes()
        )
    )
    before, start = {}, 0
    for name, shape in charter.adapter.layout:
        size = int(np.prod(shape))
        before[name] = initial[start : start + size].reshape(shape)
        start += size
    for round, factor in enumerate(moves, 1):
        after = tensors(done.folder / "rounds" / f"{round:03d}")
        for name, value in after.items():
            moved = not np.array_equal(value, before[name])
            assert moved == (f".lora_{factor}." in name), (round, name)
        before = after
    require_same_logits(done, tiny_base)


def test_rounds_are_drawn_for_some_of_the_silos(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> None:
    """Who sits the only round out isn't charged, and spends nothing."""
    some = {**plan, "rounds": 1, "participation": 0.75}
    done = fedit_secure.simulate(records, some, folder=tmp_path / "run")
    cohorts = Cohorts(done.charter)
    assert len(cohorts.of(1)) == done.charter.silos_per_round == 3
    for name, spent in done.epsilons.items():
        path = done.folder / "ledgers" / f"{name}.jsonl"
        events = [json.loads(entry) for entry in path.read_bytes().splitlines()]
        charged = [e["round"] for e in events if e["kind"] == "intent"]
        assert charged == [1] * (name in cohorts.names(1))
        assert (spent > 0) == bool(charged)
        assert spent < 8.0
