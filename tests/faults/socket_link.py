"""A link over one TCP connection, as simple as can be: each frame is one send.

What is sent has a letter and a length before it: a frame, an upload, or a question for
a blob and its answer. The codec, the limits and the messages are the real ones.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from fedit_secure.errors import ConnectError
from fedit_secure.secagg.messages import Blob, MaskedUpload
from fedit_secure.wire import bulk
from fedit_secure.wire.codec import PublishedNotice, decode, decode_from_silo, encode
from fedit_secure.wire.frames import FROM_AGGREGATOR, Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import Published, checked_blob, encode_for_silo, fetch_sum
from fedit_secure.wire.mailbox import Mailbox

_HEAD = struct.Struct("<cI")
Part = tuple[bytes, bytes]


class _Socket:
    """One end: `take` gives what came, in order; safe to cancel."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader, self._writer = reader, writer
        self._came: Mailbox[Part] = Mailbox(1 << 20)
        self._pump = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                letter, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                await self.put(letter, await self._reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError):
            self.end("the connection broke")

    async def put(self, letter: bytes, data: bytes) -> None:
        await self._came.put((letter, data))

    def end(self, reason: str) -> None:
        self._came.close(reason)

    async def take(self) -> Part:
        return await self._came.take()

    async def say(self, letter: bytes, data: bytes) -> None:
        try:
            self._writer.write(_HEAD.pack(letter, len(data)) + data)
            await self._writer.drain()
        except OSError:
            raise ConnectError("the connection broke") from None

    async def close(self) -> None:
        self.end("the link was closed")
        self._writer.close()
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)


class SiloSocket(_Socket):
    """The silo's end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        super().__init__(reader, writer)
        self._limits = limits
        self._blobs: Mailbox[bytes] = Mailbox()

    async def put(self, letter: bytes, data: bytes) -> None:
        if letter == b"F":
            await super().put(letter, data)
        else:
            await self._blobs.put(data)

    def end(self, reason: str) -> None:
        super().end(reason)
        self._blobs.close(reason)

    async def send(self, frame: Frame) -> None:
        if isinstance(frame, MaskedUpload):
            await self.upload(frame)
        else:
            await self.say(b"F", encode(frame))

    async def receive(self) -> Frame:
        frame = decode((await self.take())[1], self._limits, FROM_AGGREGATOR)
        if isinstance(frame, PublishedNotice):
            return await fetch_sum(self, frame, self._limits)
        return frame

    async def upload(self, upload: MaskedUpload) -> None:
        head = bulk.upload_start(upload.header)
        whole = struct.pack("<I", len(head)) + head + bytes(upload.payload)
        await self.say(b"U", whole)

    async def fetch(
        self, address: bytes, max_bytes: int, check: Callable[[Blob], bytes]
    ) -> Blob:
        await self.say(b"G", address)
        return checked_blob(await self._blobs.take(), address, max_bytes, check)


class PeerSocket(_Socket):
    """The aggregator's end."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        silo: int,
        name: str,
        limits: Limits,
        published: Published,
    ) -> None:
        super().__init__(reader, writer)
        self.silo, self.name = silo, name
        self._limits, self._published = limits, published

    async def put(self, letter: bytes, data: bytes) -> None:
        if letter == b"G":
            await self.say(b"B", bytes(self._published.get(data) or b""))
        else:
            await super().put(letter, data)

    async def send(self, frame: Frame) -> None:
        await self.say(b"F", encode_for_silo(frame, self._published))

    async def receive(self) -> Frame:
        letter, data = await self.take()
        return sent_by_silo(letter, data, self._limits)


def sent_by_silo(letter: bytes, data: bytes, limits: Limits) -> Frame:
    """The frame or the upload that a silo's end said."""
    if letter == b"F":
        return decode_from_silo(data, limits)
    (size,) = struct.unpack_from("<I", data)
    header = bulk.upload_header(data[4 : 4 + size], limits)
    return MaskedUpload(header, data[4 + size :])


def frames_in(data: bytes, limits: Limits) -> tuple[list[Frame], bytes]:
    """What a silo's end said in these bytes of one connection, and the rest of them.

    A question for a blob is no frame."""
    frames: list[Frame] = []
    while len(data) >= _HEAD.size:
        letter, size = _HEAD.unpack_from(data)
        end = _HEAD.size + size
        if len(data) < end:
            break
        if letter != b"G":
            frames.append(sent_by_silo(letter, data[_HEAD.size : end], limits))
        data = data[end:]
    return frames, data
