"""A federation of real processes over loopback mTLS."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from connect_proxy import ConnectProxy, listening
from safetensors.numpy import load_file

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.update import GridState
from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.processes import Processes, ProcessEvent, free_address
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning.job import DataSource

SECONDS = 240


@pytest.fixture
def federation(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> LocalFederation:
    sources = {name: DataSource(path=str(path)) for name, path in records.items()}
    whole = run_plan({**plan, "aggregator": free_address()})
    return found_federation(tmp_path / "federation", whole, sources)


def run_folder(federation: LocalFederation) -> Path:
    state = federation.folder / "aggregator" / "state"
    return state / federation.charter.digest().hex()[:16]


async def test_daemons_tune_and_the_aggregator_never_imports_torch(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the silos is behind a proxy that only its environment names."""
    behind = federation.folder / "north" / "silo.yaml"
    config = yaml.safe_load(behind.read_text())
    config["aggregator"] = {"address": "hub.north.example:7443"}
    behind.write_text(yaml.safe_dump(config))
    through = ConnectProxy(federation.charter.aggregator.address)
    async with listening(through) as proxy:
        monkeypatch.setenv("https_proxy", f"http://nurse:sesame@{proxy}")
        await tune_over_daemons(federation)
    assert through.passed
    for request in through.requests:
        assert request.startswith(b"CONNECT hub.north.example:7443 ")


async def tune_over_daemons(federation: LocalFederation) -> None:
    events: list[ProcessEvent] = []
    mapped: list[str] = []

    def watch(event: ProcessEvent) -> None:
        events.append(event)
        if event.phase == "certified":  # libraries that the live process has loaded
            mapped.append(Path(f"/proc/{running.pid('aggregator')}/maps").read_text())

    running = Processes(federation, watch)
    async with asyncio.timeout(SECONDS), running:
        await running.wait()
    assert mapped
    assert not any("torch" in libraries for libraries in mapped)
    phases = {(e.party, e.phase.split(" ")[0]) for e in events}
    for name in federation.silos:
        assert {(name, "tuning"), (name, "mask"), (name, "applied")} <= phases
    adapter = load_file(
        run_folder(federation) / "adapter" / "adapter_model.safetensors"
    )
    assert max(np.abs(value).max() for value in adapter.values()) > 0
    entries = (run_folder(federation) / "ledgers" / "north.jsonl").read_bytes()
    assert sum(json.loads(e)["kind"] == "intent" for e in entries.splitlines()) == 2


@pytest.mark.slow
async def test_a_silo_killed_in_the_masking_window_is_missed_by_nobody(
    federation: LocalFederation,
) -> None:
    """It is killed as it masks; the others go on, it restarts and rejoins the next round."""
    killed = asyncio.Event()
    holder: list[Processes] = []

    def watch(event: ProcessEvent) -> None:
        if (event.party, event.phase) == ("west", "share") and not killed.is_set():
            holder[0].kill("west")
            killed.set()

    running = Processes(federation, watch)
    holder.append(running)
    async with asyncio.timeout(SECONDS), running:
        await killed.wait()
        await asyncio.sleep(0.5)
        await running.start("west")
        await running.wait()
    certified = sorted((run_folder(federation) / "rounds").glob("*/certificate.frame"))
    assert len(certified) == 2
    entries = (run_folder(federation) / "ledgers" / "west.jsonl").read_bytes()
    kinds = [json.loads(entry)["kind"] for entry in entries.splitlines()]
    assert kinds.count("intent") == 2


@pytest.mark.slow
async def test_rounds_that_are_drawn_for_three_of_five_silos(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> None:
    """The others' daemons stay connected, charge nothing, and end well with the rest."""
    five = {**records, "coast": records["north"]}
    sources = {name: DataSource(path=str(path)) for name, path in five.items()}
    drawn = {"rounds": 3, "participation": 0.6, "aggregator": free_address()}
    whole = run_plan({**plan, **drawn})
    federation = found_federation(tmp_path / "federation", whole, sources)
    charter, cohorts = federation.charter, Cohorts(federation.charter)
    assert charter.silos_per_round == 3
    events: list[ProcessEvent] = []
    running = Processes(federation, events.append)
    async with asyncio.timeout(2 * SECONDS), running:
        await running.wait()
    initial = GridState.from_bytes(
        (federation.folder / "initial-state.bin").read_bytes()
    )
    kept = RunFolder(run_folder(federation), charter, initial)
    assert kept.progress.certified == 3
    for now in (1, 2, 3):
        assert kept.contributors(now) == cohorts.of(now)
    for name in federation.silos:
        mine = [now for now in (1, 2, 3) if name in cohorts.names(now)]
        entries = (run_folder(federation) / "ledgers" / f"{name}.jsonl").read_bytes()
        said = [json.loads(entry) for entry in entries.splitlines()]
        assert [e["round"] for e in said if e["kind"] == "intent"] == mine
        out = {e.round for e in events if (e.party, e.phase) == (name, "undrawn")}
        assert out == {1, 2, 3} - set(mine)
        ended = [e for e in events if (e.party, e.phase) == (name, "ended")]
        assert len(ended) == 1
