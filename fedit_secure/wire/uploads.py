"""Masked uploads on their way from the silos' calls to the disk, and on after a break.

What has arrived of a broken upload stays until its attempt takes no more. It belongs to
the silo whose certificate its calls prove, and to one signed header, so to one ctx, K,
H(U2), length and digest: no other silo reaches it, and another header starts anew. The
whole is hashed when its last byte is there, however often it broke. Nothing of this
survives the process: the spool is emptied at the next start, which voids the attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from fedit_secure.errors import ConnectError, MalformedMessage, StorageError
from fedit_secure.secagg.messages import Blob, MaskedUpload, UploadHeader
from fedit_secure.wire import bulk
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import check_upload
from fedit_secure.wire.stream import Read, Write

Deliver = Callable[[MaskedUpload], Awaitable[None]]


class UploadsClosed(ConnectError):
    """Uploads of that attempt aren't taken, not yet or not any more."""


class SpoolFile(Protocol):
    """One upload being written. Called from worker threads, one at a time."""

    @property
    def written(self) -> int:
        """Bytes that are there."""

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


class Uploads:
    """The uploads of the attempt that takes them now: at most one of each silo.

    Per silo there is one chunk in memory and one file on disk, whatever the silo sends;
    silos don't wait for each other.
    """

    def __init__(self, spool: UploadSpool, limits: Limits) -> None:
        self._spool = spool
        self._limits = limits
        self._ctx: bytes | None = None
        self._intakes: dict[int, Intake] = {}
        self.moved = 0.0
        """When the last chunk of any silo came, in monotonic seconds."""

    def expect(self, ctx: bytes | None) -> None:
        """From now on take uploads of this attempt only (None: of no attempt), and delete
        what is left of every other."""
        if ctx == self._ctx:
            return
        for intake in self._intakes.values():
            intake.close()
        self._ctx, self._intakes = ctx, {}

    async def take(self, silo: int, read: Read, write: Write, deliver: Deliver) -> None:
        """Answer one Upload call of the silo at this roster index, and hand on the upload
        once it is whole: after a break that may be in a later call.

        Raises:
            MalformedMessage: for anything but the announced bytes in order, from the
                offset that the answer named; what was there is deleted. The size is
                checked before anything is stored.
            UploadsClosed: the header's attempt takes no uploads.
            StorageError: the disk has no room.
            ConnectError: the call broke off, and what came of it is kept; or a newer
                call of this silo replaced it.
        """
        first = await read()
        if first is None:
            raise MalformedMessage("an upload that ended early, without a header")
        header = bulk.upload_header(first, self._limits)
        check_upload(header, silo, self._limits)
        if header.ctx != self._ctx:
            raise UploadsClosed("that attempt takes no uploads now")
        if silo not in self._intakes:
            self._intakes[silo] = Intake(silo, self._spool, self._note)
        await self._intakes[silo].take(header, read, write, deliver)

    def _note(self) -> None:
        self.moved = time.monotonic()


class Intake:
    """One silo's upload in one attempt. A newer call replaces an older: after a network
    failure the silo calls again before the aggregator notices that the first call is dead.
    """

    def __init__(
        self, silo: int, spool: UploadSpool, moved: Callable[[], None]
    ) -> None:
        self._silo = silo
        self._spool = spool
        self._moved = moved
        self._upload: _Upload | None = None
        self._calls = 0
        self._closed = False

    async def take(
        self, header: UploadHeader, read: Read, write: Write, deliver: Deliver
    ) -> None:
        """See `Uploads.take`."""
        self._calls += 1
        call, upload = self._calls, self._of(header)
        # A write of an older call may still be on its way to the disk: it counts as held.
        await upload.idle()
        try:
            self._check(call, upload)
            await self._fill(call, upload, read, write)
            if upload.payload is None and not upload.delivered:
                await upload.work(self._finish(upload))
                self._check(call, upload)
            if not upload.delivered:
                await upload.work(self._hand_on(upload, deliver))
        except StorageError:
            self._check(call, upload)  # the file went because this call is past
            raise
        except MalformedMessage:
            if self._upload is upload and not upload.delivered:
                self._drop()
            raise
        await write(bulk.upload_state(header.length, header.payload_digest))

    def close(self) -> None:
        """Delete what isn't handed on, and let no call go on."""
        self._closed = True
        self._drop()

    def _of(self, header: UploadHeader) -> _Upload:
        if self._upload is not None and self._upload.header != header:
            if self._upload.delivered:
                # y_u is computed once. This also bounds the disk to one upload a silo.
                raise MalformedMessage("a second upload in one attempt")
            self._drop()
        if self._upload is None:
            file = self._spool.open(header.ctx, self._silo, header.length)
            self._upload = _Upload(header, file)
        return self._upload

    async def _fill(self, call: int, upload: _Upload, read: Read, write: Write) -> None:
        length = upload.header.length
        await write(bulk.upload_state(upload.held))
        while upload.held < length:
            data = await read()
            self._check(call, upload)
            if data is None:
                raise ConnectError(
                    f"an upload broke off after {upload.held} of {length} bytes"
                )
            data, tell = bulk.upload_data(data, upload.held, length)
            await upload.work(asyncio.to_thread(upload.file.write, upload.held, data))
            del data  # or it would stay in memory until the next chunk is here
            self._moved()
            self._check(call, upload)
            if tell:
                await write(bulk.upload_state(upload.held))
                self._check(call, upload)
        more = await read()
        self._check(call, upload)
        if more is not None:
            raise MalformedMessage(f"an upload that goes on after {length} bytes")

    async def _finish(self, upload: _Upload) -> None:
        digest = upload.header.payload_digest
        upload.payload = await asyncio.to_thread(upload.file.finish, digest)

    async def _hand_on(self, upload: _Upload, deliver: Deliver) -> None:
        assert upload.payload is not None
        await deliver(MaskedUpload(upload.header, upload.payload))
        upload.delivered, upload.payload = True, None

    def _check(self, call: int, upload: _Upload) -> None:
        if self._closed:
            raise UploadsClosed("that attempt takes no uploads any more")
        if call != self._calls or self._upload is not upload:
            raise ConnectError("a newer upload of this silo replaced this one")

    def _drop(self) -> None:
        if self._upload is not None:
            self._upload.file.discard()
            self._upload = None


class _Upload:
    """What one header announces, and what is here of it."""

    def __init__(self, header: UploadHeader, file: SpoolFile) -> None:
        self.header = header
        self.file = file
        self.payload: Blob | None = None  # whole, and not handed on yet
        self.delivered = False
        self._work: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        whole = self.delivered or self.payload is not None
        return self.header.length if whole else self.file.written

    async def work(self, step: Coroutine[Any, Any, None]) -> None:
        """Do one step to its end, also if the call that asked for it breaks meanwhile."""
        self._work = asyncio.create_task(step)
        self._work.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._work)

    async def idle(self) -> None:
        """Wait until no step is under way."""
        while self._work is not None and not self._work.done():
            await asyncio.wait({self._work})
