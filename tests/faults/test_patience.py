"""How long the aggregator waits: while uploads move, and for a silo whose link broke."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from fedit_secure.aggregator.inbox import SLOWEST_UPLOAD, Inbox
from fedit_secure.aggregator.post import Post
from fedit_secure.errors import ConnectError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s

PATIENCE = 0.2  # seconds
NEVER = m.Lost(9)


class Uploads:
    """Stands in for the wire's: chunks come until `last`."""

    def __init__(self, last: float) -> None:
        self.last = last
        self.ctx: bytes | None = b"another attempt"

    @property
    def moved(self) -> float:
        return min(time.monotonic(), self.last)

    def expect(self, ctx: bytes | None) -> None:
        self.ctx = ctx


def masking() -> s.AggregatorState:
    session = SimpleNamespace(ctx=b"c" * 32)
    return s.Masking(session, None, frozenset(), None, None, (), None)  # type: ignore[arg-type]


async def seconds_until_deadline(inbox: Inbox) -> float:
    began = time.monotonic()
    assert await inbox.get() == (-1, m.Deadline())
    return time.monotonic() - began


async def test_nothing_moves() -> None:
    inbox = Inbox(PATIENCE, 10**9, None)
    inbox.enter(masking())
    assert PATIENCE <= await seconds_until_deadline(inbox) < PATIENCE + 1
    inbox.put_nowait((3, NEVER))
    assert await inbox.get() == (3, NEVER)


async def test_chunks_postpone_the_deadline() -> None:
    uploads = Uploads(time.monotonic() + 0.6)
    inbox = Inbox(PATIENCE, 10**9, uploads)  # type: ignore[arg-type]
    inbox.enter(masking())
    assert uploads.ctx == b"c" * 32
    assert 0.6 + PATIENCE - 0.01 <= await seconds_until_deadline(inbox) < 3


async def test_who_trickles_is_not_waited_for() -> None:
    """Chunks come for ever, at less than the slowest rate."""
    uploads = Uploads(float("inf"))
    inbox = Inbox(PATIENCE, 3 * SLOWEST_UPLOAD // 2, uploads)  # type: ignore[arg-type]
    inbox.enter(masking())
    await asyncio.sleep(1)
    inbox.enter(masking())  # another's upload is in: that doesn't start the time anew
    assert await seconds_until_deadline(inbox) < 0.5 + PATIENCE + 0.5


async def test_uploads_are_taken_while_masking_and_never_else() -> None:
    uploads = Uploads(0.0)
    inbox = Inbox(PATIENCE, 1, uploads)  # type: ignore[arg-type]
    inbox.enter(masking())
    assert uploads.ctx == b"c" * 32
    inbox.enter(s.Ended("over", free=True))
    assert uploads.ctx is None


class Link:
    """A peer link that notes what it sends, and breaks after `capacity` frames."""

    name = "north"

    def __init__(self, capacity: int = 99) -> None:
        self.sent: list[object] = []
        self._capacity = capacity

    async def send(self, frame: object) -> None:
        await asyncio.sleep(0)
        if len(self.sent) == self._capacity:
            raise ConnectError("the link broke")
        self.sent.append(frame)


async def test_letters_are_told_again_in_order_over_a_new_link() -> None:
    lost: list[int] = []
    post = Post(lost.append, 0.1)
    post.start(1)
    first, second = Link(capacity=2), Link()
    await post.attach(0, first, 0)  # type: ignore[arg-type]
    letters = [m.VoidRequest(bytes([n]) * 32) for n in range(5)]
    for letter in letters[:3]:
        await post.send(0, letter)
    assert first.sent == letters[:2]
    post.detach(0)
    await post.send(0, letters[3])
    attaching = asyncio.create_task(post.attach(0, second, 0))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await post.send(0, letters[4])
    await attaching
    assert second.sent == letters
    await asyncio.sleep(0.2)
    assert lost == []  # it was back in time


async def test_a_silo_that_does_not_come_back_is_lost() -> None:
    lost: list[int] = []
    post = Post(lost.append, 0.1)
    await post.attach(4, Link(), 0)  # type: ignore[arg-type]
    post.detach(4)
    await asyncio.sleep(0.05)
    assert lost == []
    await asyncio.sleep(0.15)
    assert lost == [4]


@pytest.mark.parametrize("certified", [1, 2])
async def test_past_attempts_and_rounds_are_not_told_again(certified: int) -> None:
    post = Post(lambda silo: None, 1.0)
    post.start(2)
    await post.send(0, m.VoidRequest(bytes(32)))
    link = Link()
    await post.attach(0, link, certified)  # type: ignore[arg-type]
    assert len(link.sent) == (1 if certified < 2 else 0)
    post.start(2)
    again = Link()
    await post.attach(0, again, certified)  # type: ignore[arg-type]
    assert again.sent == []
