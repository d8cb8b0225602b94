"""Processes that die at any frame and come back from their disk, over `SmallFederation`.

`Door` stands where the aggregator's address would: silos dial it, whichever process is
behind it or none. Every frame that passes is kept, so that a test can look at all that a
silo ever said, in every life of its process.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import small_federation
from small_federation import Killed, SmallFederation
from streams import step_of

from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.errors import ConnectError, FeditError, QuorumLost
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.wire.codec import PublishedNotice, decode, encode
from fedit_secure.wire.frames import Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import PeerLink


@dataclass
class Point:
    """The nth frame of a kind, or the nth event of a name; it comes once."""

    what: type | str
    nth: int = 1
    seen: int = 0

    def hit(self, what: object) -> bool:
        """Whether this is it."""
        self.seen += what == self.what
        return what == self.what and self.seen == self.nth


class CountingLink(small_federation.FaultyLink):
    """A silo's link that kills the silo at a `Point`."""

    async def send(self, frame: Frame) -> None:
        if isinstance(self.at_send, Point) and self.at_send.hit(type(frame)):
            raise Killed
        await self.inner.send(frame)

    async def receive(self) -> Frame:
        frame = await self.inner.receive()
        if isinstance(self.at_receive, Point) and self.at_receive.hit(type(frame)):
            raise Killed
        return frame


@dataclass
class Peer:
    """The aggregator's end of one silo, which may be where the aggregator dies."""

    inner: PeerLink
    door: Door
    life: int

    @property
    def silo(self) -> int:
        return self.inner.silo

    @property
    def name(self) -> str:
        return self.inner.name

    async def send(self, frame: Frame) -> None:
        self.door.still_alive(self.life)
        self.door.at(self.door.at_send, type(frame))
        await self.inner.send(self.door.tamper(self.inner.name, frame))

    async def receive(self) -> Frame:
        frame = await self.inner.receive()
        self.door.heard.append((self.inner.name, frame))
        self.door.still_alive(self.life)
        self.door.at(self.door.at_receive, type(frame))
        return frame

    async def close(self) -> None:
        await self.inner.close()


@dataclass
class Door:
    """See the module. The points are where the first aggregator dies."""

    federation: SmallFederation
    at_send: Point | None = None
    at_receive: Point | None = None
    at_event: Point | None = None
    tamper: Callable[[str, Frame], Frame] = lambda silo, frame: frame
    heard: list[tuple[str, Frame]] = field(default_factory=list)
    life: int = 0
    hub: Aggregator | None = None
    over: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: dict[asyncio.Task[None], PeerLink] = field(default_factory=dict)

    def dial(self) -> Door:
        """What a silo finds at the address; ConnectError when it gives up."""
        if self.over:
            raise ConnectError("nobody is there any more")
        return self

    def get(self, address: bytes) -> object:
        return self.hub.get(address) if self.hub is not None else None

    async def on_connect(self, link: PeerLink, hello: Frame) -> None:
        await self._open.wait()
        if self.hub is None:
            await link.close()
            return
        self.heard.append((link.name, hello))
        serve = self.hub.on_connect(Peer(link, self, self.life), hello)  # type: ignore[arg-type]
        task = asyncio.create_task(serve)
        self._serving[task] = link
        with suppress(asyncio.CancelledError, Killed, FeditError):
            await asyncio.shield(asyncio.gather(task))
        self._serving.pop(task, None)
        await link.close()

    def at(self, point: Point | None, what: object) -> None:
        """Die here, if this is the point."""
        if point is not None and point.hit(what):
            self.died.set()
            raise Killed

    def still_alive(self, life: int) -> None:
        """What is left of a process that died does nothing any more."""
        if self.died.is_set() or life != self.life:
            raise Killed

    def _on_event(self, event: Event) -> None:
        self.federation.events.append(event)
        if not event.silo:
            self.at(self.at_event, event.phase)

    async def comes_to(self, phase: str) -> None:
        """Wait until an aggregator has come to this phase; the empty one is now."""
        while phase and phase not in self.phases():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)

    def phases(self) -> list[str]:
        """The aggregator's own, in order."""
        return [event.phase for event in self.federation.events if not event.silo]

    async def run(self) -> GridState:
        """The aggregator, restarted from its disk whenever it has died."""
        while True:
            self.hub = self.federation.new_aggregator(self._on_event)
            running = asyncio.create_task(self.hub.run())
            death = asyncio.create_task(self.died.wait())
            self._open.set()
            await asyncio.wait({running, death}, return_when=asyncio.FIRST_COMPLETED)
            if not self.died.is_set():
                death.cancel()
                return await self._finish(running)
            await self._bury(running)
            self.died.clear()
            self.life += 1

    async def _finish(self, running: asyncio.Task[GridState]) -> GridState:
        try:
            return await running
        except QuorumLost:
            self.over = True
            await asyncio.sleep(0.05)  # its last words are under way
            await self._close_links()
            raise

    async def _bury(self, running: asyncio.Task[GridState]) -> None:
        self._open.clear()
        self.hub = None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self._close_links()
        await asyncio.sleep(0.02)  # worker threads that can't be cancelled

    async def _close_links(self) -> None:
        for task, link in list(self._serving.items()):
            task.cancel()
            with suppress(asyncio.CancelledError, Killed, FeditError):
                await task
            await link.close()


@dataclass(frozen=True)
class Dies:
    """Which silo's process dies where; it is back at once, or at the aggregator's phase
    `back`."""

    silo: str
    at_send: Point | None = None
    at_receive: Point | None = None
    back: str = ""


async def play(
    door: Door,
    dying: Sequence[Dies] = (),
    absent: Sequence[str] = (),
    seconds: float = 60,
) -> GridState | QuorumLost:
    """All silos and the aggregator to the end; each that dies comes back."""
    federation, places = door.federation, {one.silo: one for one in dying}

    async def silo(party):
        if (one := places.get(party.name)) is not None:
            points = {"at_send": one.at_send, "at_receive": one.at_receive}
            with suppress(Killed, ConnectError):  # before its Hello: a link that broke
                await federation.run_silo(party, door.dial, **points)
            point = one.at_send or one.at_receive
            assert point is not None
            assert point.seen == point.nth, f"{party.name} never came to {point}"
            await door.comes_to(one.back)
        return await federation.run_silo(party, door.dial)

    async with asyncio.timeout(seconds):
        here = [party for party in federation.silos if party.name not in absent]
        silos = [asyncio.create_task(silo(party)) for party in here]
        hub = asyncio.create_task(door.run())
        try:
            state = await hub
        except QuorumLost as lost:
            ends = await asyncio.gather(*silos, return_exceptions=True)
            assert all(isinstance(end, QuorumLost | ConnectError) for end in ends), ends
            return lost
        finally:
            if not hub.done() or hub.exception() is not None:
                for task in silos:
                    task.cancel()
        ends = await asyncio.gather(*silos)
    assert all(end.digest() == state.digest() for end in ends)
    return state


# ------------------------------------------------------------------------------ outcomes


def ends_of(federation: SmallFederation, round: int = 1) -> tuple[str, ...] | None:
    """The contributors of a round's sum; () if it was skipped, None if it never ended."""
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    if folder.progress.certified < round:
        return None
    proof = folder.certificate(round)
    assert proof is not None
    if not proof.confirmations[0].release_digest:
        return ()
    raw = (
        federation.root / "run/rounds" / f"{round:03d}" / "published.frame"
    ).read_bytes()
    notice = decode(raw, Limits.of(federation.charter.secagg_params()))
    assert isinstance(notice, PublishedNotice)
    return tuple(federation.charter.roster[i].name for i in notice.contributors)


def assert_sum(
    federation: SmallFederation, state: GridState, names: Sequence[str]
) -> None:
    """The state is the mean of exactly what these tuned, up to the rounding."""
    bound = step_of(federation.charter.secagg_params()) + 2.0**-24
    means = federation.mean_of(1, list(names)) if names else 0.0
    assert np.abs(to_float32(state) - means).max() <= bound


def charges(federation: SmallFederation, silo: str) -> int:
    """Intents in a silo's ledger: what it was charged for, in whatever round."""
    with open_journal(federation.root / silo) as journal:
        entries = journal.ledger(silo)
    return sum(json.loads(entry)["kind"] == "intent" for entry in entries)


class Heard(Protocol):
    """Where every frame of every silo is kept."""

    heard: list[tuple[str, Frame]]


def assert_answered_once(door: Heard, rounds: int = 1) -> None:
    """In all its lives a silo said one thing of a kind in an attempt, and one of a round;
    and what it promised never to open it didn't."""
    said: dict[tuple[str, str, bytes], set[bytes]] = defaultdict(set)
    for silo, frame in door.heard:
        part = getattr(frame, "statement", getattr(frame, "header", frame))
        once = (
            m.Advert, m.ShareStatement, m.UploadHeader, m.Agreement, m.Reveal, m.VoidStatement
        )  # fmt: skip
        if isinstance(part, once):
            said[silo, type(part).__name__, part.ctx].add(part.signed_digest())
        elif isinstance(part, m.Confirmation):
            round = part.round.to_bytes(8, "little")
            said[silo, "Confirmation", round].add(encode(part))
    for what, versions in said.items():
        assert len(versions) == 1, f"{what[:2]} said {len(versions)} things"
    for silo, kind, ctx in said:
        if kind == "Reveal":
            assert (silo, "VoidStatement", ctx) not in said, f"{silo} revealed, voided"
    masked = defaultdict(set)
    for silo, kind, ctx in said:
        if kind == "Reveal":
            masked[silo].add(ctx)
    # One round, one sum.
    assert all(len(ctxs) <= rounds for ctxs in masked.values())
