"""What strangers and rostered silos may throw at the aggregator's port: refused or bounded.

What counts each time: two other silos finish an exchange meanwhile, the attacker's share of
memory and tasks has a bound, and no log tells a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import multiprocessing
import os
import socket
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADER_PIECE,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    RawConnection,
    frame,
    header_block,
    message,
    raw_connection,
    send_endless_headers,
)
from wire_hub import LIMITS, UPLOAD, Hub, hello, hub, silo
from wire_samples import HELLO, OFFER, Authority, Parties

from fedit_secure.errors import ConnectError
from fedit_secure.wire import bulk, calls
from fedit_secure.wire import frames as f
from fedit_secure.wire.client import GrpcSiloLink, connect
from fedit_secure.wire.codec import encode
from fedit_secure.wire.server import MOST_CALLS

MIB = 1 << 20
PATIENCE = 60.0  # seconds for what takes one on an idle machine


def port(parties: Parties, folder: Path, **options: float):
    """A hub that no slow machine makes impatient."""
    return hub(parties, folder, **{"hello_seconds": PATIENCE, **options})


def impatient(monkeypatch: pytest.MonkeyPatch, option: str, milliseconds: int) -> None:
    """One of the server's deadlines, so short that a test can wait for it."""
    assert milliseconds < dict(calls._SERVER)[option] <= 60_000
    options = {**dict(calls._SERVER), option: milliseconds}
    monkeypatch.setattr(calls, "_SERVER", tuple(options.items()))


async def eventually(holds: object, seconds: float = PATIENCE) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def exchange(where: Hub, parties: Parties, number: int = 1) -> None:
    """What a round asks of a silo's link: frames both ways and an upload."""
    async with silo(where, parties, number, call_seconds=PATIENCE) as link:
        await finish(where, parties, number, link)


async def finish(where: Hub, parties: Parties, number: int, link: GrpcSiloLink) -> None:
    await link.send(hello(parties, number))
    while True:
        peer, said = await where.peers.get()
        if said.silo == parties.silos[number].name:
            break
    await peer.send(OFFER)
    assert await link.receive() == OFFER
    await link.send(f.Ready(1))
    assert await peer.receive() == f.Ready(1)


def resident() -> int:
    return psutil.Process().memory_info().rss


@asynccontextmanager
async def bounded_memory(mib: int) -> AsyncIterator[None]:
    """What runs inside takes no more than this beyond what was there, at any time."""
    most, base = 0, resident()

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident() - base)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert most < mib * MIB, f"{most / MIB:.0f} MiB"


def secrets_of(parties: Parties) -> list[str]:
    """Every form in which a key could be printed whole or in part."""
    found = []
    for party in (parties.aggregator, *parties.silos):
        number = party.key.private_numbers().private_value
        found += [f"{number:064x}", str(number)]
    return [*found, "PRIVATE KEY"]


@pytest.fixture(autouse=True)
def no_secret_is_logged(
    parties: Parties,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> object:
    """After every attack of this file: what was logged, by us and by gRPC, is searched."""
    caplog.set_level(logging.DEBUG)
    yield
    written = caplog.text + capfd.readouterr().err
    for secret in secrets_of(parties):
        assert secret not in written


def test_a_key_in_a_log_would_be_found(parties: Parties) -> None:
    pem, _ = parties.silos[0].leaf()
    assert any(secret in pem.decode() for secret in secrets_of(parties))
    assert load_pem_private_key(pem, None)


async def test_memory_that_is_kept_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="MiB"):  # noqa: PT012 - for as long as a look
        async with bounded_memory(32):
            kept = b"x" * (64 * MIB)
            await asyncio.sleep(0.1)
            del kept


# ------------------------------------------------------------------- before they are known


async def test_connection_flood(parties: Parties, tmp_path: Path) -> None:
    """2,000 connections that say nothing: all but a few hundred are closed as they come, and
    silos that are there finish their exchange."""
    allowed = dict(calls.server_options(4))["grpc.max_allowed_incoming_connections"]
    assert 4 <= allowed <= 1000
    async with port(parties, tmp_path) as where, silo(where, parties, 2) as there:
        host, _, number = where.address.rpartition(":")
        with contextlib.ExitStack() as flood:
            async with bounded_memory(64):
                ends = []
                for one in range(2000):
                    end = socket.create_connection((host, int(number)))
                    end.setblocking(False)
                    ends.append(flood.enter_context(end))
                    if one % 100 == 0:
                        await asyncio.sleep(0)
                await eventually(lambda: sum(map(still_open, ends)) < allowed)
                await finish(where, parties, 2, there)
        # The flood is over: there is room again.
        await eventually_connects(where, parties)


def still_open(end: socket.socket) -> bool:
    try:
        return bool(end.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


async def eventually_connects(where: Hub, parties: Parties) -> None:
    link = await connect(
        where.address, parties.silo_tls(1), LIMITS, patience_seconds=PATIENCE
    )
    await finish(where, parties, 1, link)
    await link.close()


async def test_half_open_handshakes(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 handshakes that nobody finishes: each is cut off, none of them holds a place."""
    impatient(monkeypatch, "grpc.server_handshake_timeout_ms", 3_000)
    async with port(parties, tmp_path) as where, silo(where, parties, 2) as there:
        host, _, number = where.address.rpartition(":")
        with contextlib.ExitStack() as flood:
            async with bounded_memory(64):
                ends = []
                for _ in range(200):
                    end = socket.create_connection((host, int(number)))
                    end.sendall(client_hello())
                    end.setblocking(False)
                    ends.append(flood.enter_context(end))
                await finish(where, parties, 2, there)
                await exchange(where, parties, 1)
                await eventually(lambda: not any(map(drained, ends)))


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="hub")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def drained(end: socket.socket) -> bool:
    """Whether an end is still open, with what it was sent read away."""
    try:
        while end.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def test_a_connection_without_a_call_ends(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch, "grpc.max_connection_idle_ms", 1_000)
    async with (
        port(parties, tmp_path) as where,
        silo(where, parties, 2) as there,
        raw_connection(where.address, parties) as raw,
    ):
        await eventually(lambda: GOAWAY in {kind for kind, *_ in raw.frames})
        await finish(where, parties, 2, there)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0),
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        os.urandom(100_000),
    ],
    ids=["http", "http2_without_tls", "giant_record", "noise"],
)
async def test_plain_text_and_noise(
    parties: Parties, tmp_path: Path, said: bytes
) -> None:
    """Whoever doesn't speak TLS hears at most an alert."""
    async with port(parties, tmp_path) as where:
        host, _, number = where.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(number))
        writer.write(said)
        heard = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                heard = await reader.read()
        assert heard in (b"",) or (heard[0] == 0x15 and len(heard) == 7)
        writer.transport.abort()
        await exchange(where, parties)


# ------------------------------------------------------- a rostered silo that misbehaves


async def test_calls_of_one_silo_are_bounded(parties: Parties, tmp_path: Path) -> None:
    """Over however many connections; other silos have their own allowance."""
    async with (
        port(parties, tmp_path) as where,
        raw_connection(where.address, parties) as one,
        raw_connection(where.address, parties) as two,
    ):
        for raw in (one, two, one, two):
            for _ in range(MOST_CALLS // 2):
                await raw.call(calls.CONNECT)
        # Half of them are open, and the rest have been answered.
        await eventually(
            lambda: (
                len(one.ended_streams() | {-s for s in two.ended_streams()})
                == MOST_CALLS
            )
        )
        assert sum(where.server._calls.values()) == MOST_CALLS
        refused = await refusal_of(where, parties)
        assert "silo 'north' has too many calls open" in refused
        await exchange(where, parties, 1)
        await one.close()
        await two.close()
        await eventually(lambda: not sum(where.server._calls.values()))
        await exchange(where, parties, 0)


async def refusal_of(where: Hub, parties: Parties) -> str:
    with pytest.raises(ConnectError) as refused:
        await connect(
            where.address,
            parties.silo_tls(0),
            LIMITS,
            patience_seconds=0,
            call_seconds=PATIENCE,
        )
    return str(refused.value)


async def test_streams_of_one_connection_are_bounded(
    parties: Parties, tmp_path: Path
) -> None:
    async with (
        port(parties, tmp_path) as where,
        raw_connection(where.address, parties) as raw,
    ):
        for _ in range(200):
            await raw.call(calls.CONNECT)
        await eventually(lambda: len(raw.ended_streams()) >= 200 - MOST_CALLS)
        assert sum(where.server._calls.values()) <= MOST_CALLS
        await exchange(where, parties)


async def giant(raw: RawConnection, path: str, size: int) -> int:
    """A message that says it has this size, and as much of it as is taken."""
    stream = await raw.call(path)
    await raw.send(frame(DATA, 0, stream, b"\x00" + size.to_bytes(4, "big")))
    return stream


@pytest.mark.parametrize("path", [calls.CONNECT, calls.UPLOAD, calls.FETCH])
@pytest.mark.parametrize("size", [4 * MIB, 0xFFFFFFFF])
async def test_giant_message(
    parties: Parties, tmp_path: Path, path: str, size: int
) -> None:
    """It is refused by its length, before any of it is read."""
    async with (
        port(parties, tmp_path) as where,
        silo(where, parties, 2) as there,
        raw_connection(where.address, parties) as raw,
    ):
        async with bounded_memory(32):
            stream = await giant(raw, path, size)
            await eventually(lambda: stream in raw.ended_streams())
        await finish(where, parties, 2, there)


async def test_giant_headers(parties: Parties, tmp_path: Path) -> None:
    """64 KiB of them are refused."""
    async with (
        port(parties, tmp_path) as where,
        silo(where, parties, 2) as there,
        raw_connection(where.address, parties) as raw,
    ):
        async with bounded_memory(32):
            stream = raw.new_stream()
            pieces = [frame(CONTINUATION, 0, stream, HEADER_PIECE)] * 3
            pieces.append(frame(CONTINUATION, END_HEADERS, stream))
            block = header_block(calls.CONNECT)
            await raw.send(frame(HEADERS, 0, stream, block), *pieces)
            await eventually(lambda: stream in raw.ended_streams())
        assert not where.server._calls[0]
        await finish(where, parties, 2, there)


async def test_endless_headers(parties: Parties, tmp_path: Path) -> None:
    """640 MiB in pieces without an end: what isn't in the first 16 KiB isn't kept.

    The bound leaves room for what gRPC's threads free and don't give back, which changes
    from run to run but doesn't grow with what is sent.
    """
    spawn = multiprocessing.get_context("spawn")
    async with port(parties, tmp_path) as where, silo(where, parties, 2) as there:
        with ProcessPoolExecutor(1, mp_context=spawn) as attacker:
            async with bounded_memory(192), asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().run_in_executor(
                    attacker,
                    send_endless_headers,
                    where.address,
                    parties.silo_tls(0),
                    calls.CONNECT,
                    640,
                )
        assert not where.server._calls[0]
        await finish(where, parties, 2, there)


async def test_compression_bomb(parties: Parties, tmp_path: Path) -> None:
    """256 MiB of zeros in 256 KiB: nothing compressed is taken, whatever is in it."""
    bomb = gzip.compress(bytes(256 * MIB), 1)
    assert len(bomb) < 3 * MIB
    async with (
        port(parties, tmp_path) as where,
        silo(where, parties, 2) as there,
        raw_connection(where.address, parties) as raw,
    ):
        async with bounded_memory(32):
            stream = await raw.call(calls.CONNECT, ("grpc-encoding", "gzip"))
            whole = message(bomb, compressed=True)
            for start in range(0, min(len(whole), 60_000), 16_000):
                await raw.send(frame(DATA, 0, stream, whole[start : start + 16_000]))
            await eventually(lambda: stream in raw.ended_streams())
        assert where.peers.empty()
        await finish(where, parties, 2, there)


async def test_a_compressed_hello_is_refused(parties: Parties, tmp_path: Path) -> None:
    """What is taken uncompressed isn't taken compressed, so the bomb failed for that."""
    for encoding in ("gzip", "deflate"):
        for compressed in (True, False):
            data = encode(HELLO)
            async with (
                port(parties, tmp_path / encoding / str(compressed)) as where,
                raw_connection(where.address, parties) as raw,
            ):
                more = (("grpc-encoding", encoding),) if compressed else ()
                stream = await raw.call(calls.CONNECT, *more)
                body = gzip.compress(data) if compressed else data
                await raw.send(frame(DATA, 0, stream, message(body, compressed)))
                if compressed:
                    await eventually(lambda: stream in raw.ended_streams())  # noqa: B023
                    assert where.peers.empty()
                else:
                    async with asyncio.timeout(PATIENCE):
                        await where.peers.get()


async def test_slow_hello(parties: Parties, tmp_path: Path) -> None:
    """A byte at a time: it is cut off when the Hello is due, however busy it looks."""
    async with (
        hub(parties, tmp_path, hello_seconds=0.5) as where,
        raw_connection(where.address, parties) as raw,
    ):
        stream = await raw.call(calls.CONNECT)
        await drip(raw, stream, message(encode(HELLO)))
        assert where.peers.empty()
        assert not where.server._calls[0]


async def test_slow_upload(parties: Parties, tmp_path: Path) -> None:
    """A byte at a time: no message is whole in time, and the room that it had is free."""
    async with (
        port(parties, tmp_path, progress_seconds=0.5) as where,
        silo(where, parties, 0) as known,
        raw_connection(where.address, parties) as raw,
    ):
        await finish(where, parties, 0, known)
        stream = await raw.call(calls.UPLOAD)
        await drip(raw, stream, message(bulk.upload_start(UPLOAD.header)))
        assert not where.spool.used
        await exchange(where, parties, 1)


async def test_slow_frame(parties: Parties, tmp_path: Path) -> None:
    """A frame that never becomes whole holds up nobody else, and its silo alone is late."""
    async with (
        port(parties, tmp_path) as where,
        raw_connection(where.address, parties) as raw,
    ):
        stream = await raw.call(calls.CONNECT)
        await raw.send(frame(DATA, 0, stream, message(encode(HELLO))))
        async with asyncio.timeout(PATIENCE):
            slow, _ = await where.peers.get()
        whole = message(encode(f.Ready(1)))
        for place in range(len(whole)):
            if place in (1, len(whole) - 1):
                await exchange(where, parties, 1)
            await raw.send(frame(DATA, 0, stream, whole[place : place + 1]))
        async with asyncio.timeout(PATIENCE):
            assert await slow.receive() == f.Ready(1)


async def drip(raw: RawConnection, stream: int, data: bytes) -> None:
    """Until the call is cut off, a byte at a time and never the last."""
    async with asyncio.timeout(PATIENCE):
        for byte in data[:-1]:
            if stream in raw.ended_streams():
                return
            await raw.send(frame(DATA, 0, stream, bytes([byte])))
            await asyncio.sleep(0.02)
        while stream not in raw.ended_streams():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_rapid_reset(parties: Parties, tmp_path: Path) -> None:
    """CVE-2023-44487: calls that are opened and reset at once, 10,000 of them. At no time
    does the silo have more calls than it may, and another one gets its answers."""
    most = 0
    async with (
        port(parties, tmp_path) as where,
        silo(where, parties, 2) as there,
        raw_connection(where.address, parties) as raw,
        bounded_memory(64),
    ):
        for _ in range(100):
            burst = []
            for _ in range(100):
                stream = raw.new_stream()
                block = header_block(calls.CONNECT)
                burst.append(frame(HEADERS, END_HEADERS, stream, block))
                burst.append(frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))
            await raw.send(*burst)
            most = max(most, sum(where.server._calls.values()))
            await asyncio.sleep(0)
        await finish(where, parties, 2, there)
        await eventually(lambda: not where.server._calls[0])
    assert most <= MOST_CALLS + 1


@pytest.mark.parametrize("kind", [SETTINGS, PING])
async def test_settings_and_ping_floods(
    parties: Parties, tmp_path: Path, kind: int
) -> None:
    """CVE-2019-9515 and -9512: each asks for an answer. Answers that nobody reads are not
    piled up without a bound."""
    async with (
        port(parties, tmp_path) as where,
        silo(where, parties, 2) as there,
        raw_connection(where.address, parties) as raw,
    ):
        raw._reading.cancel()  # it reads none of the answers
        raw.writer.transport.set_write_buffer_limits(1 << 16)
        one = frame(kind, 0, 0, b"" if kind == SETTINGS else bytes(8))
        async with bounded_memory(64):
            for _ in range(300):
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.05):
                        await raw.send(one * 500)
                if raw.writer.transport.is_closing():
                    break
            await finish(where, parties, 2, there)


# -------------------------------------------------------------------------- the other way


async def test_a_silo_takes_nothing_compressed(parties: Parties) -> None:
    """Not even a frame that it would take otherwise: so no aggregator's bomb either."""
    welcome = f.Welcome((b"x" * 8000,) * 4, None, 0, bytes(32))

    async def bombard(_: object, context: grpc.aio.ServicerContext) -> None:
        context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata(())
        await context.read()
        await context.write(encode(welcome))
        await context.read()

    server = grpc.aio.server()
    handler = {"Connect": grpc.stream_stream_rpc_method_handler(bombard)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(calls.SERVICE, handler),)
    )
    leaf = parties.aggregator.leaf()
    roots = "".join(pem for _, pem in parties.roster).encode()
    number = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([leaf], roots, True)
    )
    await server.start()
    try:
        address, tls = f"127.0.0.1:{number}", parties.silo_tls(0)
        with pytest.raises(ConnectError):  # noqa: PT012 - at once, or with the frame
            link = await connect(address, tls, LIMITS, patience_seconds=0)
            await link.send(HELLO)
            await link.receive()
    finally:
        await server.stop(None)


async def test_unknown_certificate_leaves_no_trace_of_keys(
    parties: Parties, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers, expired and older leaves, and silos that pose: whatever is logged of them
    has been searched for keys, and what a handshake let pass is logged with its peer."""
    async with port(parties, tmp_path) as where:
        stranger = Authority("silo", "north")
        posing = parties.silos[1].leaf(name="north")
        for leaf in (stranger.leaf(), posing, parties.aggregator.leaf()):
            with pytest.raises(ConnectError):
                await connect(
                    where.address,
                    parties.silo_tls(0, leaf),
                    LIMITS,
                    patience_seconds=0,
                    call_seconds=PATIENCE,
                )
        assert where.peers.empty()
    assert "refused ipv4:127.0.0.1" in caplog.text.replace("%3A", ":")
    assert "wasn't issued by the issuer that the charter pins" in caplog.text
