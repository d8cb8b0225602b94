"""Uploads that break off go on where they broke, over gRPC on loopback with mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from _cable import CLOSE, Cable, cable_to
from wire_hub import PAYLOAD, UPLOAD, Hub, hello, hub, silo, until
from wire_samples import HELLO, Parties, h

from fedit_secure.errors import ConnectError, MalformedMessage
from fedit_secure.secagg import messages as m
from fedit_secure.storage.spool import SpoolFile
from fedit_secure.wire import bulk, calls
from fedit_secure.wire.client import GrpcSiloLink
from fedit_secure.wire.limits import CHUNK
from fedit_secure.wire.link import PeerLink

SIZE = len(PAYLOAD)
OVERHEAD = 32 * 1024  # of a link: certificates both ways, and HTTP/2
DRAW = random.Random(7)
CUTS = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1]
CUTS += [SIZE - 1, SIZE, *sorted(DRAW.randrange(SIZE) for _ in range(5))]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(offset, bytes) of everything that reaches the disk."""
    ranges: list[tuple[int, int]] = []
    write = SpoolFile.write

    def note(file: SpoolFile, offset: int, data: bytes) -> None:
        write(file, offset, data)
        ranges.append((offset, len(data)))

    monkeypatch.setattr(SpoolFile, "write", note)
    return ranges


def pieces(until_byte: int) -> list[bytes]:
    """The upload's first bytes in chunks, the last of them cut."""
    return [
        bulk.pb.UploadChunk(
            offset=at, data=PAYLOAD[at : min(at + CHUNK, until_byte)]
        ).SerializeToString()
        for at in range(0, until_byte, CHUNK)
    ]


async def begin(
    link: GrpcSiloLink, until_byte: int, header: m.UploadHeader = UPLOAD.header
) -> grpc.aio.StreamStreamCall:
    """An upload that stops after so many bytes and stays open."""
    call = link._channel.stream_stream(calls.UPLOAD)()
    await call.write(bulk.upload_start(header))
    async with asyncio.timeout(60):
        assert bulk.upload_held(await call.read(), header, whole=False) == 0
    for piece in pieces(until_byte):
        await call.write(piece)
    return call


async def held_by(where: Hub, number: int = 0) -> int:
    upload = where.uploads._intakes[number]._upload
    return 0 if upload is None else upload.held


@asynccontextmanager
async def connected(
    where: Hub, parties: Parties, number: int = 0, address: str | None = None
) -> AsyncIterator[tuple[GrpcSiloLink, PeerLink]]:
    async with silo(where, parties, number, address) as link:
        await link.send(hello(parties, number))
        peer, _ = await where.peers.get()
        yield link, peer


async def take_upload(peer: PeerLink) -> m.MaskedUpload:
    async with asyncio.timeout(60):
        got = await peer.receive()
    assert isinstance(got, m.MaskedUpload)
    return got


# --------------------------------------------------------------------- cuts and resumes


@pytest.mark.parametrize("at", CUTS)
async def test_an_upload_that_broke_goes_on_from_there(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]], at: int
) -> None:
    """The link dies when `at` bytes are there; no byte travels twice."""
    async with hub(parties, tmp_path) as where:
        async with (
            cable_to(where.address, Cable(how=CLOSE)) as first,
            connected(where, parties, address=first.address) as (link, _),
        ):
            await begin(link, at)
            await until(lambda: sum(n for _, n in written) == at)
            await until(lambda: 0 in where.uploads._intakes)
            await first.pull()
            with pytest.raises(ConnectError):
                await link.receive()
        async with (
            cable_to(where.address, Cable(how=CLOSE)) as second,
            connected(where, parties, address=second.address) as (link, peer),
        ):
            await link.upload(UPLOAD)
            got = await take_upload(peer)
            assert (got.header, bytes(got.payload)) == (UPLOAD.header, PAYLOAD)
            assert second.up <= SIZE - at + OVERHEAD
    starts = [offset for offset, _ in written]
    assert starts == sorted(set(starts))
    assert sum(n for _, n in written) == SIZE  # each byte reached the disk once


@pytest.mark.parametrize("seed", range(6))
async def test_a_cable_cut_at_random_bytes(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]], seed: int
) -> None:
    """Three cuts of the wire itself, anywhere: what travels twice is what was under way."""
    draw, up = random.Random(seed), 0
    async with hub(parties, tmp_path) as where:
        for _ in range(3):
            cut = draw.randrange(OVERHEAD // 2, SIZE // 3)  # or it would be whole
            async with cable_to(where.address, Cable([cut], how=CLOSE)) as cable:
                with contextlib.suppress(ConnectError):
                    async with connected(where, parties, address=cable.address) as (
                        link,
                        _,
                    ):
                        await link.upload(UPLOAD)
                up += cable.up
        async with (
            cable_to(where.address, Cable(how=CLOSE)) as cable,
            connected(where, parties, address=cable.address) as (link, peer),
        ):
            await link.upload(UPLOAD)
            assert bytes((await take_upload(peer)).payload) == PAYLOAD
            up += cable.up
    assert sum(n for _, n in written) == SIZE
    assert up <= SIZE + 3 * CHUNK + 4 * OVERHEAD  # four links, three chunks cut


async def test_a_lost_answer_costs_nothing(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    """The upload is whole and handed on; the silo can't know, and asks again."""
    async with hub(parties, tmp_path) as where:
        async with connected(where, parties) as (link, first):
            await link.upload(UPLOAD)
            await link.upload(UPLOAD)
        async with (
            cable_to(where.address, Cable(how=CLOSE)) as cable,
            connected(where, parties, address=cable.address) as (link, second),
        ):
            await link.upload(UPLOAD)
            assert cable.up < OVERHEAD
            assert (await take_upload(first)).header == UPLOAD.header
            for peer in (first, second):
                with pytest.raises((ConnectError, TimeoutError)):
                    async with asyncio.timeout(0.2):
                        await peer.receive()
    assert sum(n for _, n in written) == SIZE


async def test_a_whole_upload_of_a_dead_link_is_handed_on_over_the_next(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    """Every byte is there but the end of the call; then the link dies."""
    async with hub(parties, tmp_path) as where:
        async with connected(where, parties) as (link, _):
            await begin(link, SIZE)
            await until(lambda: sum(n for _, n in written) == SIZE)
        async with connected(where, parties) as (link, peer):
            await link.upload(UPLOAD)
            assert bytes((await take_upload(peer)).payload) == PAYLOAD
    assert sum(n for _, n in written) == SIZE


async def test_a_newer_call_goes_on_with_one_that_hangs(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    async with (
        hub(parties, tmp_path) as where,
        connected(where, parties) as (link, peer),
    ):
        hanging = await begin(link, CHUNK)
        await until(lambda: written == [(0, CHUNK)])
        await link.upload(UPLOAD)
        assert bytes((await take_upload(peer)).payload) == PAYLOAD
        assert written[1][0] == CHUNK
        await hanging.write(pieces(2 * CHUNK)[1])
        async with asyncio.timeout(60):
            assert await hanging.code() is grpc.StatusCode.ABORTED


async def test_an_upload_that_stands_still_keeps_what_is_there(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    async with (
        hub(parties, tmp_path, progress_seconds=0.3) as where,
        connected(where, parties) as (link, peer),
    ):
        hanging = await begin(link, 5)
        async with asyncio.timeout(60):
            assert await hanging.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await link.upload(UPLOAD)
        assert bytes((await take_upload(peer)).payload) == PAYLOAD
    assert [offset for offset, _ in written][:2] == [0, 5]


# ------------------------------------------------------------------------------ attacks


@pytest.mark.parametrize("offset", [0, 4, 6, CHUNK])
async def test_an_offset_below_or_beyond_what_is_there(
    parties: Parties, tmp_path: Path, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with hub(parties, tmp_path) as where:
        async with connected(where, parties) as (link, _):
            await begin(link, 5)
            await until(lambda: where.uploads.moved > 0)
        async with connected(where, parties) as (link, peer):
            call = link._channel.stream_stream(calls.UPLOAD)()
            await call.write(bulk.upload_start(UPLOAD.header))
            assert bulk.upload_held(await call.read(), UPLOAD.header, whole=False) == 5
            wrong = bulk.pb.UploadChunk(offset=offset, data=PAYLOAD[5:7])
            await call.write(wrong.SerializeToString())
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"offset {offset} instead of 5" in caplog.text
            assert where.spool.used == 0  # what its sender garbles isn't kept
            await link.upload(UPLOAD)
            assert bytes((await take_upload(peer)).payload) == PAYLOAD


@pytest.mark.parametrize(
    "change", [{"key_set": h(99)}, {"dealers_digest": h(99)}, {"payload_digest": h(99)}]
)
async def test_another_header_starts_anew(
    parties: Parties,
    tmp_path: Path,
    written: list[tuple[int, int]],
    change: dict[str, bytes],
) -> None:
    """What is there belongs to one header; bytes of two never become one upload."""
    async with hub(parties, tmp_path) as where:
        async with connected(where, parties) as (link, _):
            await begin(link, CHUNK + 1, replace(UPLOAD.header, **change))
            await until(lambda: len(written) == 2)
        async with connected(where, parties) as (link, peer):
            await link.upload(UPLOAD)
            assert where.spool.used == SIZE
            assert bytes((await take_upload(peer)).payload) == PAYLOAD
    assert written[2][0] == 0


async def test_a_resumed_upload_of_other_bytes(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    """The whole is hashed: a second half that doesn't fit the first is refused."""
    async with hub(parties, tmp_path) as where:
        async with connected(where, parties) as (link, _):
            garbled = bulk.pb.UploadChunk(data=bytes(CHUNK)).SerializeToString()
            call = await begin(link, 0)
            await call.write(garbled)
            await until(lambda: len(written) == 1)
        async with connected(where, parties) as (link, peer):
            with pytest.raises(MalformedMessage, match="isn't what its header signs"):
                await link.upload(UPLOAD)
            assert where.spool.used == 0
            await link.upload(UPLOAD)
            assert bytes((await take_upload(peer)).payload) == PAYLOAD


async def test_another_silos_leftover(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    """Its header shown by another silo is refused, and its bytes wait for itself."""
    async with hub(parties, tmp_path) as where:
        async with connected(where, parties, 0) as (link, _):
            await begin(link, CHUNK)
            await until(lambda: len(written) == 1)
        async with connected(where, parties, 1) as (thief, _):
            with pytest.raises(MalformedMessage, match="headed as 0"):
                await thief.upload(UPLOAD)
            own = m.MaskedUpload(replace(UPLOAD.header, silo=1), PAYLOAD)
            await thief.upload(own)
            assert written[1][0] == 0  # of its own it has nothing there yet
            assert await held_by(where, 0) == CHUNK
        async with connected(where, parties, 0) as (link, peer):
            await link.upload(UPLOAD)
            assert bytes((await take_upload(peer)).payload) == PAYLOAD
    assert sum(n for _, n in written) == 2 * SIZE


async def test_what_is_left_goes_with_its_attempt(
    parties: Parties, tmp_path: Path, written: list[tuple[int, int]]
) -> None:
    async with hub(parties, tmp_path) as where, connected(where, parties) as (link, _):
        call = await begin(link, CHUNK)
        await until(lambda: len(written) == 1)
        assert where.spool.used == SIZE
        where.uploads.expect(HELLO.charter)  # any other attempt
        assert where.spool.used == 0
        assert not list((tmp_path / "spool").iterdir())
        await call.write(pieces(2 * CHUNK)[1])
        assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert where.spool.used == 0


async def test_many_headers_take_the_room_of_one(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where, connected(where, parties) as (link, _):
        for number in range(20):
            other = replace(UPLOAD.header, payload_digest=h(number))
            call = await begin(link, 9, other)
            call.cancel()
        assert where.spool.used == SIZE
        assert len(list((tmp_path / "spool").iterdir())) == 1
