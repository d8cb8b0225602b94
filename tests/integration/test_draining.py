"""Daemons that are told to end: as processes, with a tuning child, by command and signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from operators import Operators

from fedit_secure.federation.update import GridState
from fedit_secure.privacy.ledger import Committed, Intent, Ledger, Masked

TESTS = Path(__file__).parents[1]
OTHERS = ("b", "c", "d")


class Daemon:
    """A daemon's process; `phases` are what its display was told."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log
        self.phases: list[str] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, operators: Operators, name: str, slow: Path) -> Daemon:
        role = "aggregator" if name == "hub" else "silo"
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        log = slow / f"{name}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(TESTS / "slow_silo.py"), role, "serve",
                str(operators.config(name)), "--format", "json",
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, "SLOW_WORKER": str(slow)},
            )  # fmt: skip
        return cls(process, log)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if said.get("silo", "") in ("", "a"):
                self.phases.append(said.get("phase", ""))
            self._news.set()

    async def until(self, phase: str) -> None:
        while phase not in self.phases:
            assert self.process.returncode is None, self.log.read_text()
            self._news.clear()
            await self._news.wait()

    async def ended(self) -> None:
        """It ends, with status 0."""
        status = await self.process.wait()
        await self._reading
        assert status == 0, (status, self.log.read_text())


def taken(path: Path) -> str:
    """What a file says, which is gone then; nothing if there is none."""
    if not path.exists():
        return ""
    said = path.read_text()
    path.unlink()
    return said


async def appears(path: Path) -> str:
    """The same, once it is there."""
    while not (said := taken(path)):  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.02)
    return said


def lives(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def kinds(ledger: Ledger, kind: type) -> int:
    return sum(isinstance(event, kind) for event in ledger.events)


@pytest.mark.slow
async def test_daemons_end_with_status_0_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = Operators(tmp_path / "federation", monkeypatch)
    names, slow = ("a", *OTHERS), tmp_path / "slow"
    slow.mkdir()
    operators.host()
    operators.join(*names)
    assert operators.draft(1, names) == 0
    operators.agree(1, names)
    silo, hub = operators.config("a"), operators.config("hub")
    await asyncio.to_thread(
        operators.do, "silo", "drain", silo, "--wait", 60
    )  # none runs
    async with asyncio.timeout(300):
        aggregator = await Daemon.start(operators, "hub", slow)
        others = [asyncio.create_task(operators.silo(name)) for name in OTHERS]

        # Drained while it samples: it goes on until the update is on the disk.
        a = await Daemon.start(operators, "a", slow)
        await appears(slow / "sampling")
        operators.do("silo", "drain", silo)
        assert operators.fedit("silo", "drain", silo, "--wait", 0.5) == 3
        assert a.process.returncode is None
        (slow / "go").touch()
        await a.ended()
        assert a.phases[-1] == "tuned"
        ledger = operators.ledger("a")
        assert [kinds(ledger, k) for k in (Intent, Committed, Masked)] == [1, 1, 0]
        (slow / "go").unlink()

        # The aggregator, drained while it waits for that silo: at once, and it goes on.
        drained = ("aggregator", "drain", hub, "--wait", 120)
        await asyncio.to_thread(operators.do, *drained)
        await aggregator.ended()
        aggregator = await Daemon.start(operators, "hub", slow)

        # The silo is back with its update. In the next round SIGTERM ends it and its child.
        a = await Daemon.start(operators, "a", slow)
        await a.until("applied")
        child = int(await appears(slow / "sampling"))
        a.process.send_signal(signal.SIGTERM)
        await a.ended()
        assert not lives(child)
        ledger = operators.ledger("a")
        assert [kinds(ledger, k) for k in (Intent, Committed, Masked)] == [2, 1, 1]

        # It pays again, and is ended in the middle of the release; then it drains idle.
        (slow / "go").touch()
        a = await Daemon.start(operators, "a", slow)
        await a.until("share")
        a.process.send_signal(signal.SIGTERM)
        await a.ended()
        a = await Daemon.start(operators, "a", slow)
        ends = await asyncio.gather(*others)
        await a.ended()
        await aggregator.ended()
    assert all(isinstance(end, GridState) for end in ends), ends
    assert len({end.digest() for end in ends}) == 1  # type: ignore[union-attr]
    assert kinds(operators.ledger("a"), Intent) == 3
    operators.audit(1)
