"""Real daemons with their pages on: what they show and log, and how a run is stopped."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from watch.serving_page import ask

from fedit_secure.cli.main import main
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.processes import Processes, ProcessEvent, free_address
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning.job import DataSource
from fedit_secure.watch.snapshot import AggregatorSnapshot, SiloSnapshot
from fedit_secure.watch.status_file import read_status

SECONDS = 240
NAMES = ("north", "south", "west")
DRAWN_SILO = str(Path(__file__).parents[2] / "benchmarks" / "_drawn_silo.py")
SECRET = "xyzzy-of-a-patient"


@pytest.fixture
def federation(tmp_path: Path) -> LocalFederation:
    records = tmp_path / "records.jsonl"
    line = json.dumps({"instruction": f"What is {SECRET}?", "response": "Nothing."})
    records.write_text(f"{line}\n" * 64)
    plan = {
        "federation": "watched",
        "run": "spring",
        "aggregator": free_address(),
        "base_model": str(base_model_path()),
        "max_tokens": 64,
        "lora": {"rank": 2, "targets": ["layers.3.mlp.down_proj"]},
        "tuning": {"learning_rate": 1e-3, "local_steps": 1},
        "rounds": 50,
        "dp": {"epsilon": 8.0, "delta": 1e-5, "clip": 0.1, "expected_batch": 8},
    }
    source = DataSource(path=str(records))
    whole = run_plan(plan)
    found = found_federation(tmp_path / "f", whole, dict.fromkeys(NAMES, source))
    for party in ("aggregator", *NAMES):
        path = found.config_path(party)
        path.write_text(f"{path.read_text()}page: {{listen: '{free_address()}'}}\n")
    return found


def page_of(federation: LocalFederation, party: str) -> str:
    text = federation.config_path(party).read_text()
    return text.rpartition("'")[0].rpartition("'")[2]


def log_of(federation: LocalFederation, party: str) -> list[str]:
    return (federation.folder / party / "daemon.log").read_text().splitlines()


async def test_a_run_is_seen_from_outside_until_its_operator_stops_it(
    federation: LocalFederation,
) -> None:
    certified = asyncio.Event()

    def watch(event: ProcessEvent) -> None:
        if (event.party, event.phase) == ("aggregator", "certified"):
            certified.set()

    running = Processes(federation, watch, silo_program=(DRAWN_SILO,))
    async with asyncio.timeout(SECONDS), running:
        await certified.wait()
        await see_the_aggregator(page_of(federation, "aggregator"))
        await see_a_silo(page_of(federation, "south"))
        config = str(federation.config_path("aggregator"))
        stop = ["run", "stop", config, "--reason", "the study is over"]
        assert await asyncio.to_thread(main, stop) == 0
        ends = {p: await running.ended(p) for p in ("aggregator", *NAMES)}
    assert ends == {"aggregator": 0, "north": 6, "south": 6, "west": 6}
    how_it_ended(federation)
    every_line_says_what_it_is_about(federation)


async def see_the_aggregator(address: str) -> None:
    page = (await ask(address)).text
    assert "Aggregator aggregator" in page
    assert all(f">{name}<" in page for name in NAMES)
    snapshot = json.loads((await ask(address, "/snapshot.json")).text)
    assert snapshot["run"]["certified"] >= 1
    assert snapshot["rounds"][0]["outcome"] == "released"
    assert all(silo["traffic"]["received"] > 1000 for silo in snapshot["silos"])
    metrics = (await ask(address, "/metrics")).text
    assert "fedit_silos 3.0" in metrics
    assert 'fedit_phase_seconds_count{phase="mask"}' in metrics
    assert (await ask(address, "/healthz")).text == "running\n"


async def see_a_silo(address: str) -> None:
    async with asyncio.timeout(60):
        while True:
            snapshot = json.loads((await ask(address, "/snapshot.json")).text)
            if snapshot["caps"] and snapshot["caps"][0]["spent"]:
                break
            await asyncio.sleep(0.2)  # it is computed beside the run
    assert snapshot["connected"]
    assert snapshot["head"]["entries"] >= 2
    assert 0 < snapshot["caps"][0]["spent"] < snapshot["caps"][0]["limit"]
    assert snapshot["traffic"]["sent"] > 1000
    assert "fedit_epsilon_spent{" in (await ask(address, "/metrics")).text
    page = (await ask(address)).text
    assert SECRET not in page
    assert "Privacy budget" in page


def how_it_ended(federation: LocalFederation) -> None:
    why = "the aggregator's operator stopped the run after round"
    hub = read_status(federation.folder / "aggregator" / "state")
    assert isinstance(hub, AggregatorSnapshot)
    assert hub.daemon.state == "stopped"
    assert hub.daemon.why.startswith(why)
    assert hub.daemon.why.endswith(": the study is over")
    assert 1 <= hub.run.certified < 50
    for name in NAMES:
        silo = read_status(federation.folder / name / "state")
        assert isinstance(silo, SiloSnapshot)
        assert silo.daemon.state == "failed"
        assert silo.daemon.why == hub.daemon.why
        # Between two rounds: nobody is left with half of one.
        assert silo.run.certified == hub.run.certified
        assert log_of(federation, name)[-1] == f"fedit: {hub.daemon.why}"


def every_line_says_what_it_is_about(federation: LocalFederation) -> None:
    for party in ("aggregator", *NAMES):
        lines = log_of(federation, party)
        if party != "aggregator":
            lines.pop()  # the command's own last sentence
        said = [json.loads(line) for line in lines]
        assert said
        for line in said:
            assert {"time", "level", "logger", "text", "run"} <= set(line)
            assert line["run"] == "spring"
            if party != "aggregator":
                assert line["silo"] == party
            assert SECRET not in json.dumps(line)
    # What the aggregator says of one silo names it, and the round and phase.
    gone = [x for x in map(json.loads, log_of(federation, "aggregator"))
            if "disconnected" in x["text"]]  # fmt: skip
    assert {x["silo"] for x in gone} == set(NAMES)
    assert all({"round", "phase"} <= set(x) for x in gone)
