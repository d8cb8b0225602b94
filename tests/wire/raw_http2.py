"""HTTP/2 by hand over TLS, for what no library lets one send (RFC 9113, RFC 7541)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wire_samples import Parties

from fedit_secure.wire.tls import Tls

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# A field x, that 15,999 bytes follow, and they.
HEADER_PIECE = b"\x00\x01x\x7f\x80\x7c" + b"y" * 15_999


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">I", len(payload))[1:]
    return head + struct.pack(">BBI", kind, flags, stream) + payload


def message(data: bytes, compressed: bool = False) -> bytes:
    """A gRPC message."""
    return struct.pack(">BI", compressed, len(data)) + data


def _string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    size, rest = b"\x7f", len(raw) - 127  # an integer of more than seven bits
    while rest >= 128:
        size, rest = size + bytes([rest % 128 + 128]), rest // 128
    return size + bytes([rest]) + raw


def header_block(path: str, *more: tuple[str, str]) -> bytes:
    """Literals without indexing, behind the static table's POST and https."""
    fields = (("content-type", "application/grpc"), ("te", "trailers"), *more)
    named = b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)
    return b"\x83\x87\x04" + _string(path) + b"\x01" + _string("hub") + named


class RawConnection:
    """One connection; `frames` are the (kind, flags, stream, payload) that came."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.ended = asyncio.Event()
        self.settled = asyncio.Event()  # the server's settings hold from its ack on
        self._reader, self.writer = reader, writer
        self._reading = asyncio.create_task(self._read())
        self._next = 1

    async def send(self, *frames: bytes) -> None:
        """Writes as fast as the other end takes it."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(b"".join(frames))
            await self.writer.drain()

    def new_stream(self) -> int:
        self._next += 2
        return self._next - 2

    async def call(self, path: str, *more: tuple[str, str]) -> int:
        """Opens a call; its stream."""
        stream = self.new_stream()
        block = header_block(path, *more)
        await self.send(frame(HEADERS, END_HEADERS, stream, block))
        return stream

    def ended_streams(self) -> set[int]:
        return {
            stream
            for kind, flags, stream, _ in self.frames
            if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
        }

    async def close(self) -> None:
        self._reading.cancel()
        self.writer.transport.abort()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                size = int.from_bytes(head[:3], "big")
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                payload = await self._reader.readexactly(size)
                self.frames.append((kind, flags, stream & 0x7FFFFFFF, payload))
                if kind in (SETTINGS, PING) and not flags & ACK:
                    answer = payload if kind == PING else b""
                    await self.send(frame(kind, ACK, 0, answer))
                if kind == SETTINGS:
                    self.settled.set()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.ended.set()


def client_context(tls: Tls) -> ssl.SSLContext:
    """A silo's TLS, of the standard library."""
    context = ssl.create_default_context(cadata=tls.roots.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "leaf.pem"
        file.write_bytes(tls.private_key + tls.chain)
        context.load_cert_chain(file)
    return context


@asynccontextmanager
async def raw_connection(
    address: str, parties: Parties, silo: int = 0
) -> AsyncIterator[RawConnection]:
    """A rostered silo's connection, past TLS, preface and settings."""
    async with raw_connection_of(address, parties.silo_tls(silo)) as connection:
        yield connection


@asynccontextmanager
async def raw_connection_of(address: str, tls: Tls) -> AsyncIterator[RawConnection]:
    """The same for whoever holds this key and certificate, in another process too."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=client_context(tls), server_hostname=tls.peer_name
    )
    connection = RawConnection(reader, writer)
    await connection.send(PREFACE, frame(SETTINGS, 0, 0))
    async with asyncio.timeout(60):
        await connection.settled.wait()
    try:
        yield connection
    finally:
        await connection.close()


def send_endless_headers(address: str, tls: Tls, path: str, mib: int) -> None:
    """A call whose headers don't end, until the other end ends it.

    Raises `TimeoutError` where it doesn't. To be run in a process of its own, where the
    sender's memory isn't the receiver's.
    """

    async def send() -> None:
        async with raw_connection_of(address, tls) as raw:
            stream = raw.new_stream()
            await raw.send(frame(HEADERS, 0, stream, header_block(path)))
            for _ in range(mib):
                await raw.send(frame(CONTINUATION, 0, stream, HEADER_PIECE) * 64)
            async with asyncio.timeout(60):
                while stream not in raw.ended_streams():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    asyncio.run(send())
