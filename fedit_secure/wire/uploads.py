"""Masked uploads on their way from a silo's call to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from fedit_secure.errors import ConnectError, MalformedMessage
from fedit_secure.secagg.messages import Blob, MaskedUpload, UploadHeader
from fedit_secure.wire import bulk
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import check_upload
from fedit_secure.wire.stream import Read, Write


class SpoolFile(Protocol):
    """One upload being written. Called from worker threads, one at a time."""

    def write(self, offset: int, data: Blob) -> None:
        """Add bytes at the end, which `offset` names."""

    def finish(self, payload_digest: bytes) -> Blob:
        """The whole payload; MalformedMessage unless its digest is this one."""

    def discard(self) -> None:
        """Drop what was written, if it isn't finished."""


class UploadSpool(Protocol):
    """Where uploads wait; `storage.spool.Spool` is one."""

    def open(self, ctx: bytes, silo: int, length: int) -> SpoolFile:
        """Room for `length` bytes; StorageError if there is none."""


class Intake:
    """Takes one connection's uploads, one at a time: a newer call replaces an older.

    After a network failure the silo calls again before the aggregator has noticed that
    the first call is dead; or the upload was whole, and only the answer got lost: then
    the same header finds all of its bytes held, and nothing is handed on twice.
    """

    def __init__(self, silo: int, spool: UploadSpool, limits: Limits) -> None:
        self._silo = silo
        self._spool = spool
        self._limits = limits
        self._file: SpoolFile | None = None
        self._whole: UploadHeader | None = None

    async def take(
        self,
        read: Read,
        write: Write,
        deliver: Callable[[MaskedUpload], Awaitable[None]],
    ) -> None:
        """Answer one call, and hand on the upload that its messages hold.

        Raises:
            MalformedMessage: for anything but the announced bytes in order; the size
                is checked before anything is stored.
            StorageError: the disk has no room.
            ConnectError: a newer upload replaced this one.
        """
        header = bulk.upload_header(await _needed(read), self._limits)
        check_upload(header, self._silo, self._limits)
        if header == self._whole:
            await write(bulk.upload_state(header.length))
            await _end(read, header.length)
        else:
            await deliver(await self._store(header, read, write))
            self._whole = header
        await write(bulk.upload_state(header.length, header.payload_digest))

    async def _store(
        self, header: UploadHeader, read: Read, write: Write
    ) -> MaskedUpload:
        self.drop()
        file = self._spool.open(header.ctx, self._silo, header.length)
        self._file = file
        try:
            offset = 0
            await write(bulk.upload_state(offset))
            while offset < header.length:
                data = bulk.upload_data(await _needed(read), offset, header.length)
                if self._file is not file:
                    raise ConnectError("a newer upload of this silo replaced this one")
                await asyncio.to_thread(file.write, offset, data)
                offset += len(data)
            await _end(read, offset)
            payload = await asyncio.to_thread(file.finish, header.payload_digest)
        finally:
            file.discard()
            if self._file is file:
                self._file = None
        return MaskedUpload(header, payload)

    def drop(self) -> None:
        """Forget an unfinished upload."""
        if self._file is not None:
            self._file.discard()
            self._file = None


async def _needed(read: Read) -> bytes:
    data = await read()
    if data is None:
        raise MalformedMessage("an upload that ended early")
    return data


async def _end(read: Read, length: int) -> None:
    if await read() is not None:
        raise MalformedMessage(f"an upload that goes on after {length} bytes")
