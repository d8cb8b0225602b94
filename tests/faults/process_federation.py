"""A federation of which one silo is a process of its own, which may die at any point.

The aggregator and the other silos are in this process, over `SmallFederation`. The silo
`s0` lives in forks of `faults.silo_process`, one life after the other on one folder, over
a real socket. Everything that it ever said is kept, and so is what each life did to its
disk; `Story` says what came of it, and `check` whether that may be.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from faults.crashing import Peer, Point
from faults.silo_process import Life, Report, drawn
from faults.socket_link import PeerSocket
from faults.syscalls import Fate, library
from small_federation import Killed, SmallFederation, found

from fedit_secure.aggregator import post
from fedit_secure.errors import FeditError
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import messages as m
from fedit_secure.wire.frames import CannotServe, Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import PeerLink, Published

VICTIM = "s0"
ROUNDS = 2
TESTS = Path(__file__).parents[1]
# In the first nobody is given up, however busy the machine is that the test runs on. In
# the second the others go on without whoever is away for long.
PATIENT = {"phase_deadline_seconds": 20.0, "silo_deadline_seconds": 40.0}
HASTY = {"phase_deadline_seconds": 2.0, "silo_deadline_seconds": 4.0}
HASTY |= {"tune_deadline_seconds": 8.0}
_SECONDS = 90.0  # after which a process hangs
_LAST_WORDS = 0.2


class Nursery:
    """Where the processes come from; federations of 3 and of 4 silos to copy."""

    def __init__(self, folder: Path) -> None:
        self.federations = {
            (silos, hasty): _founded(folder / f"{silos}-{hasty}", silos, hasty)
            for silos in (3, 4)
            for hasty in (False, True)
        }
        roots = [str(one.root) for one in self.federations.values()]
        one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        preloaded = {"LD_PRELOAD": str(library()), "PYTHONPATH": path, **one_core}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.silo_process", *roots],
            env={**os.environ, **preloaded},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "-1 0\n", "it never came up"
        self._ends: list[Future[int]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, status = map(int, line.split())
            self._ends[number].set_result(status)

    def bear(self, life: Life) -> asyncio.Future[int]:
        """A process; its exit status, or minus the signal that killed it."""
        end: Future[int] = Future()
        self._ends.append(end)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(life)) + "\n")
        self._process.stdin.flush()
        return asyncio.wrap_future(end)

    def close(self) -> None:
        """No more processes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _founded(root: Path, silos: int, hasty: bool) -> SmallFederation:
    federation = found(root, silos, ROUNDS, **(HASTY if hasty else PATIENT))
    (root / "charter").write_bytes(federation.charter.to_bytes())
    return federation


@dataclass
class Front:
    """Where silos find the aggregator; it treats them as the server does, and keeps what
    they say. `life` and the rest are for `Peer`, which may kill an aggregator: not here."""

    federation: SmallFederation
    heard: list[tuple[str, Frame]] = field(default_factory=list)
    life: int = 0
    at_send: Point | None = None
    at_receive: Point | None = None

    def __post_init__(self) -> None:
        patience = self.federation.charter.schedule.phase_deadline_seconds
        with patch.object(post, "RECONNECT_SECONDS", patience):
            self.hub = self.federation.new_aggregator()
        self.published = Published(self)
        self._serving: dict[asyncio.Task[None], PeerLink] = {}
        self._server: asyncio.Server | None = None

    def get(self, address: bytes) -> Any:
        return self.hub.get(address)

    def at(self, point: object, what: object) -> None:
        """Nobody dies here."""

    def still_alive(self, life: int) -> None:
        """It is."""

    def tamper(self, silo: str, frame: Frame) -> Frame:
        return frame

    async def on_connect(self, link: PeerLink, hello: Frame) -> None:
        self.heard.append((link.name, hello))
        try:
            await self.hub.on_connect(Peer(link, self, 0), hello)  # type: ignore[arg-type]
        except FeditError as error:
            with suppress(FeditError):
                await link.send(CannotServe(str(error), error.exit_status))
        await link.close()

    @asynccontextmanager
    async def port(self) -> AsyncIterator[int]:
        """Take the victim's connections meanwhile."""
        charter = self.federation.charter
        limits = Limits.of(charter.secagg_params())
        index = charter.silo_index(VICTIM)

        async def serve(link: PeerLink) -> None:
            with suppress(FeditError, asyncio.CancelledError):
                await self.on_connect(link, await link.receive())

        async def accept(*ends: Any) -> None:
            link = PeerSocket(*ends, index, VICTIM, limits, self.published)
            task = asyncio.create_task(serve(link))
            self._serving[task] = link

        self._server = await asyncio.start_server(accept, "127.0.0.1", 0)
        try:
            yield self._server.sockets[0].getsockname()[1]
        finally:
            await self.shut()

    async def shut(self) -> None:
        """Nobody is here any more: links end, and new ones are refused."""
        assert self._server is not None
        self._server.close()
        for task, link in self._serving.items():
            task.cancel()
            await link.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def run(self) -> GridState:
        """The aggregator's process; it is gone when it has given up."""
        try:
            return await self.hub.run()
        except FeditError:
            await asyncio.sleep(_LAST_WORDS)  # they are under way
            await self.shut()
            raise


@dataclass
class Story:
    """What came of it: `ends` are the exit statuses of the victim's lives, `reports` of
    those that weren't killed; `records` is the folder of all the calls that they made."""

    federation: SmallFederation
    front: Front
    home: Path
    outside: Path
    ends: list[int] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    state: GridState | None = None  # None: the run was given up

    @property
    def state_folder(self) -> Path:
        return self.home / "state"

    @property
    def sampled(self) -> list[tuple[int, int]]:
        """(round, life) of each time that the victim began to draw records."""
        lines = (self.outside / "marks").read_text().splitlines()
        return [(int(a), int(b)) for a, b in (line.split() for line in lines)]

    def record(self, life: int) -> Path:
        """The calls of one of its lives."""
        return self.outside / f"record{life}"


Between = Callable[[Story, int], None]


def _new_story(federation: SmallFederation, folder: Path, home: Path | None) -> Story:
    outside, home = folder / "outside", home or folder / VICTIM
    for made in (outside, home):
        made.mkdir(parents=True, exist_ok=True)
    (outside / "marks").touch()
    copy = replace(federation, root=folder, updates={}, events=[])
    return Story(copy, Front(copy), home, outside)


async def _live(
    nursery: Nursery, story: Story, root: Path, port: int, number: int, fate: Fate
) -> int:
    record, report = story.record(number), story.outside / f"report{number}"
    record.touch()
    life = Life(
        root=str(root),
        name=VICTIM,
        home=str(story.home),
        port=port,
        number=number,
        marks=str(story.outside / "marks"),
        report=str(report),
        record=str(record),
        fate=fate,
    )
    status = await nursery.bear(life)
    story.ends.append(status)
    assert status >= 0 or status == -signal.SIGKILL, f"life {number} ended by {-status}"
    if status >= 0:
        assert report.exists(), f"life {number} ended with {status} and no report"
        story.reports.append(Report(**json.loads(report.read_text())))
    return status


async def tell(
    nursery: Nursery,
    folder: Path,
    fates: Sequence[Fate],
    silos: int = 4,
    dying: dict[str, type] | None = None,
    back: str = "",
    between: Between = lambda story, life: None,
    *,
    hasty: bool = False,
    restarts: bool = False,
    home: Path | None = None,
) -> Story:
    """A run from its beginning to an end, in which the victim's processes have these
    fates, one after the other, and another that nothing happens to if all were killed.

    `dying`: others that die before they send a message, and are back at the aggregator's
    phase `back`. `between(story, life)` is called when a life has ended, before the next
    one begins. With `restarts` a process that ended with an error has one after it too, as
    an operator would see to; `home` is where its folder is, if not below `folder`. Raises
    TimeoutError where anything hangs.
    """
    template = nursery.federations[silos, hasty]
    story = _new_story(template, folder, home)
    async with asyncio.timeout(_SECONDS), story.front.port() as port:
        others = [
            asyncio.create_task(_other(story, party.name, (dying or {}), back))
            for party in template.silos
            if party.name != VICTIM
        ]
        hub = asyncio.create_task(story.front.run())
        try:
            for number, fate in enumerate([*fates, Fate()], 1):
                status = await _live(nursery, story, template.root, port, number, fate)
                if status == 0 or (status > 0 and not restarts):
                    break
                between(story, number)
            await _end(story, hub, others)
        finally:
            for task in (hub, *others):
                task.cancel()
            await asyncio.gather(hub, *others, return_exceptions=True)
    for name, updates in _tuned(story).items():
        story.federation.updates[name] = updates
    return story


async def _end(
    story: Story, hub: asyncio.Task[GridState], others: list[asyncio.Task[GridState]]
) -> None:
    """The others go on without it, if they can; else the run is given up."""
    ends = await asyncio.gather(hub, *others, return_exceptions=True)
    states = [end for end in ends if isinstance(end, GridState)]
    if len(states) == len(ends):
        assert len({state.digest() for state in states}) == 1
        story.state = states[0]
        return
    assert all(isinstance(end, FeditError) for end in ends), ends


async def _other(
    story: Story, name: str, dying: dict[str, type], back: str
) -> GridState:
    federation, front = story.federation, story.front
    party = next(silo for silo in federation.silos if silo.name == name)
    if name in dying:
        with suppress(Killed):
            await federation.run_silo(party, lambda: front, at_send=dying[name])  # type: ignore[arg-type,return-value]
        while back and back not in _phases(story):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    return await federation.run_silo(party, lambda: front)  # type: ignore[arg-type,return-value]


def _phases(story: Story) -> list[str]:
    return [event.phase for event in story.federation.events if not event.silo]


def _tuned(story: Story) -> dict[tuple[str, int], list[np.ndarray]]:
    """What each life of the victim tuned for each round, by its marks."""
    charter = story.federation.charter
    length, index = charter.secagg_params().length, charter.silo_index(VICTIM)
    tuned: dict[tuple[str, int], list[np.ndarray]] = {}
    for round, life in story.sampled:
        update = drawn(index, round, life, length)
        tuned.setdefault((VICTIM, round), []).append(update)
    return tuned


def copy_of(story: Story, name: str) -> Path:
    """The state folder as it lies there now, to look at without touching it."""
    seen = story.outside / name
    shutil.copytree(story.state_folder, seen)
    (seen / "journal.sqlite.lock").unlink(missing_ok=True)
    return seen


VOIDED = {"s1": m.MaskedUpload, "s3": m.MaskedUpload}
SKIPPED = {"s1": m.Reveal, "s3": m.Reveal}
