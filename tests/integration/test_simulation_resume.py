"""A simulation that was killed goes on where it was, and ends in the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import fedit_secure
from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.errors import ConfigError
from fedit_secure.federation.update import GridState
from fedit_secure.privacy.ledger import Intent, Ledger
from fedit_secure.silo import attempts
from fedit_secure.simulation import run

SILOS = ("north", "south", "east")
# A program that begins the simulation and is killed at an event of it.
KILLED = """
import json, os, signal, sys
from types import SimpleNamespace
import fedit_secure
from fedit_secure.silo import attempts
from fedit_secure.simulation import run

given = json.loads(sys.argv[1])
fixed = SimpleNamespace(urandom=lambda size: bytes(range(size)))
attempts.os = run.os = fixed

def at(event):
    if [event.round, event.phase] == given["at"]:
        os.kill(os.getpid(), signal.SIGKILL)

fedit_secure.simulate(given["data"], given["plan"], folder=given["folder"], on_event=at)
"""


@pytest.fixture(autouse=True)
def _fixed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling, noise and rounding; masks cancel out, whatever their keys."""
    fixed = SimpleNamespace(urandom=lambda size: bytes(range(size)))
    monkeypatch.setattr(attempts, "os", fixed)
    monkeypatch.setattr(run, "os", fixed)


@pytest.fixture
def given(plan: dict[str, object], records: dict[str, Path]) -> SimpleNamespace:
    few = {name: str(records[name]) for name in SILOS}
    return SimpleNamespace(data=few, plan=plan)


def digests(done: fedit_secure.Simulation) -> list[bytes]:
    """Of the states after all rounds."""
    state = done.folder.parent / "initial-state.bin"
    folder = RunFolder(
        done.folder, done.charter, GridState.from_bytes(state.read_bytes())
    )
    return [folder.state_after(n).digest() for n in range(done.charter.rounds + 1)]


@pytest.mark.parametrize(
    ("at", "private"),
    [
        pytest.param([1, "certified"], False, id="between rounds"),
        # A process of its own takes its seconds.
        pytest.param(
            [1, "certified"], True, id="between private rounds", marks=pytest.mark.slow
        ),
        pytest.param([2, "mask"], True, id="in a release", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_the_run_that_went_through(
    given: SimpleNamespace, tmp_path: Path, at: list[object], private: bool
) -> None:
    folder = tmp_path / "killed"
    if not private:
        given.plan = {**given.plan, "dp": {"kind": "none", "expected_batch": 20}}
    (_killed if private else _stopped)(given, folder, at)
    assert not (folder / "run" / "rounds" / "002" / "certificate.frame").exists()
    charter, before = (folder / "charter.json").read_bytes(), ledgers(folder)
    resumed = fedit_secure.simulate(given.data, given.plan, folder=folder)
    through = fedit_secure.simulate(given.data, given.plan, folder=tmp_path / "through")
    assert digests(resumed) == digests(through)
    assert len(set(digests(through))) == 3
    # The same federation, and its ledgers went on: each round was charged once.
    assert (folder / "charter.json").read_bytes() == charter
    for name, entries in ledgers(folder).items():
        assert entries[: len(before[name])] == before[name]
        events = Ledger.from_entries(name, entries).events
        charged = [event.round for event in events if isinstance(event, Intent)]
        assert charged == [1, 2]
    assert resumed.epsilons == through.epsilons
    # Over, it is only read again.
    kept = ledgers(folder)
    again = fedit_secure.simulate(given.data, given.plan, folder=folder)
    assert again.rows == resumed.rows
    assert ledgers(folder) == kept
    _refuses_another(given, folder)


class Stopped(BaseException):
    """Nobody in the run may catch it, as nobody catches a SIGKILL."""


def _stopped(given: SimpleNamespace, folder: Path, at: list[object]) -> None:
    """All parties end at once, in this process."""

    def on_event(event: Event) -> None:
        if [event.round, event.phase] == at:
            raise Stopped

    with pytest.raises(Stopped):
        fedit_secure.simulate(given.data, given.plan, folder=folder, on_event=on_event)


def _killed(given: SimpleNamespace, folder: Path, at: list[object]) -> None:
    """A process of its own, and SIGKILL."""
    told = {"data": given.data, "plan": given.plan, "folder": str(folder), "at": at}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(told)],
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]


def ledgers(folder: Path) -> dict[str, tuple[bytes, ...]]:
    """Each silo's, as the aggregator has copied it."""
    copies = folder / "run" / "ledgers"
    return {
        name: tuple((copies / f"{name}.jsonl").read_bytes().splitlines())
        for name in SILOS
    }


def _refuses_another(given: SimpleNamespace, folder: Path) -> None:
    longer = {**given.plan, "rounds": 3}
    with pytest.raises(ConfigError, match="another plan, in 'rounds': give that one"):
        fedit_secure.simulate(given.data, longer, folder=folder)
    with pytest.raises(ConfigError, match="another server rule"):
        fedit_secure.simulate(
            given.data, given.plan, folder=folder, server_rule=lambda delta: delta
        )
    other = {**given.data, "north": given.data["south"]}
    with pytest.raises(ConfigError, match="another data, in 'north'"):
        fedit_secure.simulate(other, given.plan, folder=folder)


def test_a_folder_of_something_else_is_left_alone(
    given: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="isn't empty"):
        fedit_secure.simulate(given.data, given.plan, folder=tmp_path / "theirs")
