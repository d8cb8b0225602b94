"""A masked upload on its way from the silo, over as many calls as it takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fedit_secure.errors import MalformedMessage
from fedit_secure.secagg.messages import MaskedUpload
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.pace import Pace
from fedit_secure.wire.stream import Read, Write

_TRIES: Final = 4  # in a row that bring nothing across


class Outgoing:
    """One upload. `held` is what the aggregator said last that it holds of it.

    `seconds` is how long a message may take to leave, or an answer to come.
    """

    def __init__(self, upload: MaskedUpload, seconds: float) -> None:
        self.held = 0
        self._header = upload.header
        self._payload = memoryview(upload.payload).cast("B")
        self._seconds = seconds
        self._tries, self._held_then = 0, 0

    def given_up(self, _: Any) -> bool:
        """Whether to stop, after a call that failed: each that brought something across
        is followed by as many tries as the first."""
        if self.held > self._held_then:
            self._tries = 0
        self._tries, self._held_then = self._tries + 1, self.held
        return self._tries >= _TRIES

    async def go(
        self, read: Read, write: Write, done_writing: Callable[[], Awaitable[None]]
    ) -> None:
        """One call: what the aggregator lacks, no further ahead than the pace allows.

        Raises:
            MalformedMessage: an answer that can't be.
            Unreachable: the call ended early. TimeoutError: it stood still.
        """
        await self._write(write, bulk.upload_start(self._header))
        # A refusal comes now: gRPC can't tell its reason to a caller in mid-write.
        self.held = sent = await self._answer(read)
        pace, length = Pace(len(self._payload), sent), len(self._payload)
        asked: deque[int] = deque()  # what each answer on its way will say
        after_asking = sent
        while sent < length:
            piece, window = pace.piece(self.held), pace.window(self.held)
            if sent + piece - self.held > window:
                await self._hear(read, asked)
                continue
            data = self._payload[sent : sent + piece]
            tell = sent + len(data) - after_asking >= window // 4
            await self._write(write, bulk.upload_chunk(sent, data, tell=tell))
            sent += len(data)
            if tell:
                asked.append(sent)
                after_asking = sent
        await done_writing()
        while asked:
            await self._hear(read, asked)
        self.held = await self._answer(read, whole=True)

    async def _hear(self, read: Read, asked: deque[int]) -> None:
        held, right = await self._answer(read), asked.popleft()
        if held != right:
            raise MalformedMessage(f"an answer of {held} bytes held instead of {right}")
        self.held = held

    async def _write(self, write: Write, data: bytes) -> None:
        async with asyncio.timeout(self._seconds):
            await write(data)

    async def _answer(self, read: Read, *, whole: bool = False) -> int:
        async with asyncio.timeout(self._seconds):
            data = await read()
        if data is None:
            raise Unreachable("the upload ended without an answer")
        return bulk.upload_held(data, self._header, whole=whole)
