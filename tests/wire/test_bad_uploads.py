"""Uploads that break a rule: each costs its silo the call and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from wire_hub import PAYLOAD, UPLOAD, hub, silo, until
from wire_samples import HELLO, Parties, h

from fedit_secure.errors import ConnectError, MalformedMessage
from fedit_secure.secagg import messages as m
from fedit_secure.wire import bulk, calls
from fedit_secure.wire import frames as f
from fedit_secure.wire.client import GrpcSiloLink
from fedit_secure.wire.limits import CHUNK, PIECE


async def raw_upload(link: GrpcSiloLink, chunks: list[bytes]) -> None:
    """Send these messages whatever the aggregator answers."""
    call = link._channel.stream_stream(calls.UPLOAD)()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for chunk in chunks:
            await call.write(chunk)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    assert await call.code() is not grpc.StatusCode.OK


START = bulk.upload_start(UPLOAD.header)
DATA = list(bulk.upload_chunks(PAYLOAD, 0))
OTHERS = replace(UPLOAD.header, silo=1)
LONG = replace(UPLOAD.header, length=len(PAYLOAD) + 1)
NOBODYS = replace(UPLOAD.header, silo=4)


def chunk(data: bytes) -> bytes:
    return bulk.pb.UploadChunk(data=data).SerializeToString()


BAD_UPLOADS = {
    "chunk_beyond": ([START, *DATA[1:]], f"offset {PIECE} instead of 0"),
    "chunk_reordered": (
        [START, DATA[1], DATA[0], *DATA[2:]],
        f"offset {PIECE} instead",
    ),
    "chunk_duplicated": ([START, DATA[0], *DATA], f"offset 0 instead of {PIECE}"),
    "no_header": (DATA, "doesn't begin with its header"),
    "two_headers": ([START, START, *DATA], "chunk of 0 bytes"),
    "nothing": ([], "ended early"),
    "garbage": ([b"\xff" * 99], "aren't a UploadChunk"),
    "more_than_announced": ([START, *DATA, DATA[-1]], "goes on after"),
    "another_silos_header": ([bulk.upload_start(OTHERS), *DATA], "headed as 1"),
    "nobodys_header": ([bulk.upload_start(NOBODYS), *DATA], "roster of 4"),
    "oversized_length": ([bulk.upload_start(LONG), *DATA], "the charter's codec"),
    "other_bytes": ([START, chunk(bytes(PIECE)), *DATA[1:]], "its header signs"),
    "oversized_chunk": ([START, chunk(PAYLOAD[: CHUNK + 1])], "of 1048577 bytes"),
    "beyond_the_message_limit": ([START, chunk(bytes(4 << 20))], None),
}


@pytest.mark.parametrize("attack", BAD_UPLOADS)
async def test_bad_uploads(
    parties: Parties, tmp_path: Path, attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    chunks, match = BAD_UPLOADS[attack]
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        peer, _ = await where.peers.get()
        await raw_upload(link, chunks)
        if match is not None:
            await until(lambda: not where.spool.used)
            assert not list((tmp_path / "spool").iterdir())
            assert "silo 'north' sent a bad upload" in caplog.text
            assert match in caplog.text
        # The refusal costs the silo that call and nothing else.
        await link.upload(UPLOAD)
        assert isinstance(await peer.receive(), m.MaskedUpload)


async def test_a_refused_upload_says_why(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        await where.peers.get()
        with pytest.raises(MalformedMessage, match="headed as 1"):
            await link.upload(m.MaskedUpload(OTHERS, PAYLOAD))


async def test_an_upload_needs_a_connection(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        with pytest.raises(ConnectError, match="needs a connection"):
            await link.upload(UPLOAD)


async def test_a_full_spool_refuses(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        await where.peers.get()
        hold = where.spool.open(h(1), 3, where.spool._max)
        with pytest.raises(ConnectError, match="no room"):
            await link.upload(UPLOAD)
        hold.discard()


async def test_a_second_upload_in_one_attempt(
    parties: Parties, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """y_u is computed once; and a silo takes the disk space of one upload."""
    other = replace(UPLOAD.header, signature=bytes(64))
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        peer, _ = await where.peers.get()
        await link.upload(UPLOAD)
        with pytest.raises(MalformedMessage, match="second upload in one attempt"):
            await link.upload(m.MaskedUpload(other, PAYLOAD))
        assert where.spool.used == len(PAYLOAD)
        await link.upload(UPLOAD)  # the first is still known
        await link.send(f.Ready(1))
        got = [await peer.receive() for _ in range(2)]
        assert [getattr(frame, "header", frame) for frame in got] == [
            UPLOAD.header,
            f.Ready(1),
        ]
    assert "silo 'north' sent a bad upload" in caplog.text


@pytest.mark.parametrize("ctx", [h(200), None])
async def test_an_attempt_that_takes_no_uploads(
    parties: Parties, tmp_path: Path, ctx: bytes | None
) -> None:
    """Another attempt's, and one that comes before or after masking: no byte is kept."""
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        await where.peers.get()
        where.uploads.expect(ctx)
        with pytest.raises(ConnectError, match="takes no uploads now"):
            await link.upload(UPLOAD)
        assert where.spool.used == 0
