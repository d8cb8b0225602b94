"""Frames over one bidirectional gRPC stream; both ends run the same pump."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fedit_secure.errors import ConnectError, FeditError
from fedit_secure.wire.frames import Frame
from fedit_secure.wire.mailbox import Mailbox

_GRACE = 5.0  # seconds that what is queued gets to leave after a close

Read = Callable[[], Awaitable[bytes | None]]
Write = Callable[[bytes], Awaitable[None]]


class Stream:
    """One reader and one writer task between a gRPC call and two mailboxes.

    gRPC cancels the whole call when a read or write is cancelled, so nobody but these
    tasks touches the call: `take` and `send` may be cancelled freely.
    """

    def __init__(
        self,
        read: Read,
        write: Write,
        unpack: Callable[[bytes], Awaitable[Frame]],
        peer: str,
        send_seconds: float,
    ) -> None:
        self.inbox: Mailbox[Frame] = Mailbox()
        self._outbox: Mailbox[bytes] = Mailbox()
        self._read = read
        self._write = write
        self._unpack = unpack
        self._peer = peer
        self._send_seconds = send_seconds
        self.failure: FeditError | None = None

    async def send(self, data: bytes) -> None:
        """Queue a frame's bytes; a peer that takes none for too long is cut off."""
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._outbox.put(data)
        except TimeoutError:
            self.close(f"{self._peer} stopped reading")
            raise ConnectError(
                f"{self._peer} took no message for {self._send_seconds:.0f} seconds"
            ) from None

    def close(self, reason: str, last: bytes | None = None) -> None:
        """Let what is queued leave, then (last) one more frame, then end the stream."""
        self.inbox.close(reason)
        if last is None:
            self._outbox.close(reason)
        else:
            self._outbox.finish(last, reason)

    async def run(
        self, half_close: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Pump until either end closes; then both mailboxes are closed.

        With `half_close` (the silo's end) the peer gets a moment to end the stream.
        """
        reader = asyncio.create_task(self._pump_in())
        writer = asyncio.create_task(self._pump_out())
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            self.close(f"the link to {self._peer} has ended")
            await asyncio.wait({writer}, timeout=_GRACE)
            if half_close is not None and not reader.done():
                await half_close()
                await asyncio.wait({reader}, timeout=_GRACE)
        finally:
            self.close(f"the link to {self._peer} was cut")
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _pump_in(self) -> None:
        try:
            while (data := await self._read()) is not None:
                await self.inbox.put(await self._unpack(data))
            self.close(f"{self._peer} closed the link")
        except FeditError as error:
            self.failure = error
            self.inbox.close(str(error), type(error))
            self.close(str(error))

    async def _pump_out(self) -> None:
        try:
            while True:
                await self._write(await self._outbox.take())
        except FeditError as error:
            # Also the ordinary end: the outbox is closed and empty.
            self.close(str(error) or ConnectError.__name__)
