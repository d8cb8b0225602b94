"""How far an upload is ahead of the aggregator's answers, and when it is given up."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from wire_samples import HEADER

from fedit_secure.errors import MalformedMessage
from fedit_secure.secagg import messages as m
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.limits import CHUNK, PIECE
from fedit_secure.wire.outgoing import Outgoing
from fedit_secure.wire.pace import NO_LIMIT, Pace

SIZE = 4_000_000
UPLOAD = m.MaskedUpload(replace(HEADER, length=SIZE), bytes(SIZE))


@dataclass
class Hub:
    """Takes one call that begins after `start` bytes; it answers until `mute` are held,
    and each answer says `wrong` bytes more than it holds."""

    start: int = 0
    mute: int = SIZE
    wrong: int = 0
    sent: int = -1
    sizes: list[int] = field(default_factory=list)
    answers: deque[bytes] = field(default_factory=deque)

    async def write(self, data: bytes) -> None:
        if self.sent < 0:
            self.sent = self.start
            self.answers.append(bulk.upload_state(self.start))
            return
        piece, tell = bulk.upload_data(data, self.sent, SIZE)
        self.sent += len(piece)
        self.sizes.append(len(piece))
        if tell and self.sent <= self.mute:
            self.answers.append(bulk.upload_state(self.sent + self.wrong))

    async def read(self) -> bytes:
        if not self.answers:
            await asyncio.Event().wait()
        return self.answers.popleft()

    async def end(self) -> None:
        self.answers.append(bulk.upload_state(SIZE, HEADER.payload_digest))


async def go(hub: Hub, seconds: float = 5.0) -> Outgoing:
    outgoing = Outgoing(UPLOAD, seconds)
    await outgoing.go(hub.read, hub.write, hub.end)
    return outgoing


@pytest.mark.parametrize("start", [0, 1, 5_000, SIZE // 2, SIZE - 1, SIZE])
async def test_the_whole_of_it_arrives_once(start: int) -> None:
    hub = Hub(start)
    outgoing = await go(hub)
    assert (hub.sent, outgoing.held) == (SIZE, SIZE)
    assert sum(hub.sizes) == SIZE - start
    assert not hub.answers


@pytest.mark.parametrize("start", [1, 1_000_000])
@pytest.mark.parametrize("came", [0, 30_000, 2_000_000])
async def test_no_more_is_on_its_way_than_may_be_lost(start: int, came: int) -> None:
    """The aggregator answers no more, as when a line goes dead: after a break at most
    8 KiB and a hundredth of what has come are under way."""
    hub = Hub(start, mute=start + came)
    with pytest.raises(TimeoutError):
        await go(hub, seconds=0.2)
    lost = hub.sent - hub.start - came
    assert lost <= 8 * 1024 + came // 100 + max(hub.sizes)
    assert max(hub.sizes) <= (8 * 1024 + came // 100) // 2
    assert came == 0 or hub.sent > start + came // 2


async def test_a_short_upload_that_has_not_broken_has_a_quarter_of_a_mib() -> None:
    hub = Hub(mute=1_000_000)
    with pytest.raises(TimeoutError):
        await go(hub, seconds=0.2)
    assert hub.sent - hub.mute <= 256 * 1024 + PIECE


def test_a_long_one_is_held_back_by_nothing_until_it_breaks() -> None:
    """Nor later, once HTTP/2's own limit is the lower one."""
    long = Pace(120_000_000, 0)
    assert long.window(0) == long.window(100_000_000) == NO_LIMIT
    assert long.piece(0) == PIECE
    resumed = Pace(200_000_000, 1)
    windows = [resumed.window(held) for held in range(1, 200_000_001, 1_000_000)]
    assert windows == sorted(windows)
    assert max(w for w in windows if w < NO_LIMIT) <= CHUNK
    assert windows[-1] == NO_LIMIT


@pytest.mark.parametrize("wrong", [-1, 1, 10**9])
async def test_an_answer_that_cannot_be_is_refused(wrong: int) -> None:
    with pytest.raises(MalformedMessage):
        await go(Hub(1, wrong=wrong))


async def test_twenty_breaks_do_not_end_an_upload_that_comes_on() -> None:
    outgoing = Outgoing(UPLOAD, 5.0)
    for held in range(20):
        assert not outgoing.given_up(None)
        outgoing.held = 1 + held
    assert [outgoing.given_up(None) for _ in range(4)] == [False, False, False, True]


async def test_an_end_without_an_answer_is_tried_again() -> None:
    async def nothing() -> None:
        return None

    with pytest.raises(Unreachable):
        await Outgoing(UPLOAD, 5.0).go(nothing, Hub().write, nothing)
