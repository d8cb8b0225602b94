"""Links that break in the middle of an attempt, while both processes live: the silo goes
on with what it has, says the same bytes again, and is in the sum. Daemons in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import small_federation
from small_federation import SmallFederation, found
from streams import step_of

from fedit_secure.errors import ConnectError
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.wire.frames import Frame
from fedit_secure.wire.link import SiloLink

SECONDS = 60
VICTIM = 2
NAMES = [f"s{i}" for i in range(4)]

ANSWERS = [m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal]
LETTERS = [m.Offer, m.AdvertSet, m.ShareSet, m.UploadAck, m.SurvivorSet]
LETTERS += [m.AgreementSet, m.PublishedSum, m.RoundCertificate]


@dataclass
class Breaks:
    """Where links break, each once: before a frame leaves, after it has left, or instead
    of its arrival. `said` are the bytes that a silo ever sent of each answer."""

    before: set[type] = field(default_factory=set)
    after: set[type] = field(default_factory=set)
    arriving: set[type] = field(default_factory=set)
    broken: list[type] = field(default_factory=list)
    said: dict[type, set[bytes]] = field(default_factory=dict)

    def at(self, where: set[type], frame: Frame) -> bool:
        if type(frame) not in where:
            return False
        where.discard(type(frame))
        self.broken.append(type(frame))
        return True

    def note(self, frame: Frame) -> None:
        if type(frame) in ANSWERS:
            said = getattr(frame, "statement", getattr(frame, "header", frame))
            self.said.setdefault(type(frame), set()).add(said.signature)


class BreakingLink:
    """A silo's link that breaks for both ends; what was under way is lost."""

    def __init__(self, inner: SiloLink, breaks: Breaks) -> None:
        self._inner, self._breaks, self._gone = inner, breaks, asyncio.Event()

    async def send(self, frame: Frame) -> None:
        if self._breaks.at(self._breaks.before, frame):
            await self._break()
        if self._gone.is_set():
            raise ConnectError("the link is broken")
        self._breaks.note(frame)
        await self._inner.send(frame)
        if self._breaks.at(self._breaks.after, frame):
            await self._break()
            raise ConnectError("the link broke")

    async def receive(self) -> Frame:
        taking = asyncio.ensure_future(self._inner.receive())
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({taking, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not taking.done():
                taking.cancel()
        if self._gone.is_set():
            await asyncio.gather(taking, return_exceptions=True)
            raise ConnectError("the link is broken")
        frame = taking.result()
        if self._breaks.at(self._breaks.arriving, frame):
            await self._break()
            raise ConnectError("the link broke")
        return frame

    async def upload(self, upload: m.MaskedUpload) -> None:
        await self._inner.upload(upload)

    async def fetch(self, *args: object) -> bytes:
        return await self._inner.fetch(*args)  # type: ignore[arg-type]

    async def close(self) -> None:
        await self._inner.close()

    async def _break(self) -> None:
        self._gone.set()
        await self._inner.close()


async def play(
    federation: SmallFederation, breaks: Breaks, monkeypatch: pytest.MonkeyPatch
) -> GridState:
    """The whole run; every link of the victim passes through `breaks`."""
    plain = small_federation.FaultyLink
    victims = itertools.count()

    def link(inner: SiloLink, *kills: type | None) -> object:
        if inner._silo != VICTIM:
            return plain(inner, *kills)
        next(victims)
        return BreakingLink(inner, breaks)

    monkeypatch.setattr(small_federation, "FaultyLink", link)
    hub = federation.new_aggregator()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        silos = [
            group.create_task(federation.run_silo(party, lambda: hub))
            for party in federation.silos
        ]
        state = await hub.run()
    assert all(task.result().digest() == state.digest() for task in silos)
    assert next(victims) == 1 + len(breaks.broken)
    return state


def assert_in_one_sum(
    federation: SmallFederation, state: GridState, breaks: Breaks
) -> None:
    """All silos are in the sum of the first attempt, each charged for one tuning."""
    bound = step_of(federation.charter.secagg_params()) + 2.0**-24
    error = np.abs(to_float32(state) - federation.mean_of(1, NAMES)).max()
    assert error <= bound, error
    for name in NAMES:
        with open_journal(federation.root / name) as journal:
            entries = journal.ledger(name)
        kinds = [json.loads(entry)["kind"] for entry in entries]
        assert [kinds.count(k) for k in ("intent", "masked", "voided")] == [1, 1, 0], (
            name
        )
        assert len(federation.updates[name, 1]) == 1
    phases = {event.phase for event in federation.events if not event.silo}
    assert not phases & {"void", "skipped"}
    assert all(len(said) == 1 for said in breaks.said.values())
    assert set(breaks.said) == set(ANSWERS)


def patient(root: Path) -> SmallFederation:
    return found(root, 4, phase_deadline_seconds=5.0, silo_deadline_seconds=10.0)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", ANSWERS)
async def test_a_link_that_dies_at_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: type, when: str
) -> None:
    """Before: it never leaves, as an upload that was cut. After: it is there, and the
    silo can't know."""
    federation, breaks = patient(tmp_path), replace(Breaks(), **{when: {at}})
    state = await play(federation, breaks, monkeypatch)
    assert breaks.broken == [at]
    assert_in_one_sum(federation, state, breaks)


@pytest.mark.parametrize("at", LETTERS)
async def test_a_link_that_dies_with_a_letter_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: type
) -> None:
    """The lost acknowledgement among them: the aggregator says it again."""
    federation, breaks = patient(tmp_path), Breaks(arriving={at})
    state = await play(federation, breaks, monkeypatch)
    assert breaks.broken == [at]
    assert_in_one_sum(federation, state, breaks)


async def test_a_link_that_dies_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = patient(tmp_path)
    breaks = Breaks(set(ANSWERS), set(ANSWERS), set(LETTERS))
    state = await play(federation, breaks, monkeypatch)
    # Three of four can end the round while the victim dials: it is told so in the Welcome.
    untold = breaks.arriving
    assert untold <= {m.PublishedSum, m.RoundCertificate}
    assert len(breaks.broken) + len(untold) == 2 * len(ANSWERS) + len(LETTERS)
    assert_in_one_sum(federation, state, breaks)


async def test_a_silo_that_stays_away_is_missed_and_comes_back_to_help_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its upload never came: the others' sum is published without it, and it adopts it."""
    federation = found(tmp_path, 5, phase_deadline_seconds=0.4)
    breaks = Breaks(before={m.MaskedUpload})
    dial_again = BreakingLink.close

    async def slow_close(link: BreakingLink) -> None:
        await dial_again(link)
        if breaks.broken == [m.MaskedUpload]:
            await asyncio.sleep(1.5)

    monkeypatch.setattr(BreakingLink, "close", slow_close)
    state = await play(federation, breaks, monkeypatch)
    others = ["s0", "s1", "s3", "s4"]
    bound = step_of(federation.charter.secagg_params()) + 2.0**-24
    error = np.abs(to_float32(state) - federation.mean_of(1, others)).max()
    assert error <= bound, error
