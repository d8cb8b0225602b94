"""The in-memory pair: what simulation runs on obeys the rules of the wire."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from wire_samples import FRAMES, HEADER, HELLO, LIMITS, OFFER, PUBLISHED, h

from fedit_secure.errors import ConnectError, MalformedMessage
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.wire import frames as f
from fedit_secure.wire.link import PeerLink, Published, SiloLink, memory_pair
from fedit_secure.wire.mailbox import Mailbox


def sha(blob: bytes | memoryview) -> bytes:
    return hashlib.sha256(blob).digest()


class Blobs(dict[bytes, bytes]):
    """A blob source."""


def pair(blobs: Blobs | Published | None = None) -> tuple[SiloLink, PeerLink]:
    return memory_pair(0, "north", Blobs() if blobs is None else blobs, LIMITS)


def upload(payload: bytes) -> m.MaskedUpload:
    header = replace(
        HEADER, length=len(payload), payload_digest=digest("fedit/payload/v1", payload)
    )
    return m.MaskedUpload(header, payload)


async def test_every_frame_goes_through() -> None:
    silo, peer = pair()
    assert (peer.silo, peer.name) == (0, "north")
    for frame in FRAMES:
        if type(frame) in f.FROM_SILO:
            await silo.send(frame)
            assert await peer.receive() == frame
        if type(frame) in f.FROM_AGGREGATOR:
            await peer.send(frame)
            assert await silo.receive() == frame


async def test_frames_pass_the_codec() -> None:
    silo, peer = pair()
    await silo.send(OFFER)
    with pytest.raises(MalformedMessage, match="never sends one"):
        await peer.receive()
    await peer.send(replace(OFFER, charter=b"short"))
    with pytest.raises(MalformedMessage, match="5 bytes, not 32"):
        await silo.receive()


async def test_a_published_sum_is_whole_again() -> None:
    published = Published(Blobs())
    ends = [memory_pair(n, str(n), published, LIMITS) for n in range(3)]
    for _, peer in ends:
        await peer.send(PUBLISHED)
    for silo, _ in ends:
        got = await silo.receive()
        assert isinstance(got, m.PublishedSum)
        assert got.signed_digest() == PUBLISHED.signed_digest()
        assert np.array_equal(got.total, PUBLISHED.total)


async def test_a_sum_that_is_too_long_is_refused() -> None:
    silo, peer = pair()
    await peer.send(replace(PUBLISHED, total=np.zeros(LIMITS.length + 1, np.int32)))
    with pytest.raises(MalformedMessage, match="28 bytes, above 24"):
        await silo.receive()


async def test_a_sum_that_is_too_short_is_refused() -> None:
    silo, peer = pair()
    await peer.send(replace(PUBLISHED, total=np.zeros(LIMITS.length - 1, np.int32)))
    with pytest.raises(MalformedMessage, match="20 bytes for 6"):
        await silo.receive()


async def test_only_the_last_sums_are_kept() -> None:
    published = Published(Blobs(), keep=2)
    addresses = [
        published.add(replace(PUBLISHED, total=np.full(6, n, np.int32)))
        for n in range(3)
    ]
    assert [published.get(a) is None for a in addresses] == [True, False, False]


async def test_uploads_are_checked_like_on_the_wire() -> None:
    silo, peer = pair()
    good = upload(b"p" * 26)
    await silo.send(good)
    assert await peer.receive() == good
    with pytest.raises(MalformedMessage, match="charter's codec"):
        await silo.upload(upload(b"p" * 27))
    with pytest.raises(MalformedMessage, match="header's digest"):
        await silo.upload(replace(good, payload=b"q" * 26))
    with pytest.raises(MalformedMessage, match="headed as 1"):
        await silo.upload(replace(good, header=replace(good.header, silo=1)))


async def test_blobs() -> None:
    blobs = Blobs({sha(b"abc"): b"abc", h(1): b"other"})
    silo, _ = pair(blobs)
    assert await silo.fetch(sha(b"abc"), 3, sha) == b"abc"
    with pytest.raises(MalformedMessage, match="above 2"):
        await silo.fetch(sha(b"abc"), 2, sha)
    with pytest.raises(MalformedMessage, match="isn't 0101"):
        await silo.fetch(h(1), 9, sha)
    with pytest.raises(ConnectError, match="no blob"):
        await silo.fetch(h(2), 9, sha)


@pytest.mark.parametrize("who", ["silo", "aggregator"])
async def test_what_was_sent_before_a_close_arrives(who: str) -> None:
    silo, peer = pair()
    await silo.send(HELLO)
    await peer.send(OFFER)
    await (silo if who == "silo" else peer).close()
    assert await peer.receive() == HELLO
    assert await silo.receive() == OFFER
    for call in (silo.receive(), peer.receive(), silo.send(HELLO), peer.send(OFFER)):
        with pytest.raises(ConnectError, match=f"the {who} closed"):
            await call


async def test_a_link_holds_a_bounded_number_of_frames() -> None:
    silo, peer = memory_pair(0, "north", Blobs(), LIMITS, capacity=2)
    await silo.send(f.Ready(1))
    await silo.send(f.Ready(2))
    third = asyncio.create_task(silo.send(f.Ready(3)))
    await asyncio.sleep(0)
    assert not third.done()
    assert await peer.receive() == f.Ready(1)
    await third


async def test_a_cancelled_receive_loses_nothing() -> None:
    silo, peer = pair()
    for number in range(20):
        waiting = asyncio.create_task(peer.receive())
        await asyncio.sleep(0)
        await silo.send(f.Ready(number))
        waiting.cancel()
        try:
            got = await waiting
        except asyncio.CancelledError:
            got = await peer.receive()
        assert got == f.Ready(number)


async def test_a_mailbox_closes_with_its_first_reason() -> None:
    box: Mailbox[int] = Mailbox(1)
    await box.put(1)
    waiting = asyncio.create_task(box.put(2))
    await asyncio.sleep(0)
    box.close("first", MalformedMessage)
    box.close("second")
    with pytest.raises(MalformedMessage, match="first"):
        await waiting
    assert await box.take() == 1
    with pytest.raises(MalformedMessage, match="first"):
        await box.take()


async def test_a_last_item_needs_no_room() -> None:
    box: Mailbox[int] = Mailbox(1)
    await box.put(1)
    box.finish(2, "over")
    box.finish(3, "over again")
    assert [await box.take(), await box.take()] == [1, 2]
    with pytest.raises(ConnectError, match=r"^over$"):
        await box.take()
