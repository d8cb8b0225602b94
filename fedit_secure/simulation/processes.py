"""A founded federation as real processes: one aggregator daemon, one daemon per silo.

They speak mutual TLS over loopback, exactly as on machines of their own. Each writes its
events as JSON lines to standard output, which is what a display shows.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedit_secure.errors import FeditError

if TYPE_CHECKING:
    from fedit_secure.simulation.parties import LocalFederation

SHUTDOWN_SECONDS = 20.0
_FEDIT = ("-m", "fedit_secure.cli.main")


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """What one daemon said: `party` spoke, about `silo` (itself, unless the aggregator)."""

    party: str
    round: int
    silo: str
    phase: str


class DaemonFailed(FeditError):
    """A daemon ended before the run did; the text has its last words."""

    def __init__(self, party: str, status: int, words: str) -> None:
        super().__init__(f"{party} ended with status {status}: {words}")
        self.exit_status = status if status > 0 else 1  # type: ignore[misc]


def free_address() -> str:
    """A loopback address with a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Processes:
    """The daemons of one federation; `async with` starts them and ends what is left.

    Logs go to `<party>/daemon.log` in the federation's folder. `silo_program` is what
    Python runs for `silo serve`: a benchmark that times releases has one without tuning.
    """

    def __init__(
        self,
        federation: LocalFederation,
        on_event: Callable[[ProcessEvent], None] = lambda event: None,
        *,
        silo_program: Sequence[str] = _FEDIT,
    ) -> None:
        self._federation = federation
        self._on_event = on_event
        self._programs = {"aggregator": _FEDIT, "silo": silo_program}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Processes:
        try:
            await self.start(self._federation.aggregator.name)
            for name in self._federation.silos:
                await self.start(name)
        except BaseException:
            await self.end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def start(self, party: str) -> int:
        """Start one party's daemon (again); returns its process id."""
        role = "aggregator" if party == self._federation.aggregator.name else "silo"
        config = self._federation.config_path(party)
        command = [sys.executable, *self._programs[role], role, "serve"]
        with self._log(party).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, str(config), "--format", "json",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )  # fmt: skip
        self._running[party] = process
        self._readers.append(asyncio.create_task(self._read(party, process)))
        return process.pid

    def pid(self, party: str) -> int:
        """The process id of a party's daemon."""
        return self._running[party].pid

    async def ended(self, party: str) -> int:
        """Wait for a party's daemon to end; its exit status."""
        return await self._running[party].wait()

    def kill(self, party: str) -> None:
        """SIGKILL one daemon, as a power cut would."""
        self._running[party].kill()

    async def wait(self) -> None:
        """Until the aggregator and every silo have ended the run.

        Raises DaemonFailed as soon as one ends in failure.
        """
        waits = {
            asyncio.create_task(process.wait()): party
            for party, process in self._running.items()
        }
        pending = set(waits)
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if task.result() != 0:
                        party = waits[task]
                        words = last_words(self._log(party))
                        raise DaemonFailed(party, task.result(), words)
        finally:
            for task in pending:
                task.cancel()

    async def _read(self, party: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                event = json.loads(line)
                shown = ProcessEvent(
                    party, event["round"], event.get("silo", party), event["phase"]
                )
            except (ValueError, KeyError, TypeError):
                continue  # a result, not an event
            self._on_event(shown)

    async def end(self) -> None:
        """End every daemon that still runs: by SIGTERM, and soon by SIGKILL."""
        for process in self._running.values():
            if process.returncode is None:
                process.terminate()
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await asyncio.gather(*(p.wait() for p in self._running.values()))
        except TimeoutError:
            for process in self._running.values():
                if process.returncode is None:
                    process.kill()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _log(self, party: str) -> Path:
        return self._federation.folder / party / "daemon.log"


def last_words(log: Path) -> str:
    """The last line of a log file, for an error's sentence."""
    lines: Sequence[str] = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
