"""A silo's line to the aggregator, on loopback: it is cut, goes dead, or stands still."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_PIECE = 64 * 1024


class Relay:
    """A TCP relay from a port of its own to `port`.

    While it is `silent` it takes connections and passes on nothing, and nobody is told:
    so does a network whose router has died.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._lines: set[asyncio.Task[None]] = set()
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._line, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut everything, and listen no more."""
        if self._server is not None:
            self._server.close()
        self._speaks.set()
        await self.cut()

    async def cut(self) -> None:
        """Reset every connection."""
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    async def silence(self, seconds: float, *, forget: bool) -> None:
        """Pass on nothing for so long. Then go on where it was, or with `forget` have
        lost every connection, without a word to whoever is at their other end."""
        self._speaks.clear()
        await asyncio.sleep(seconds)
        if forget:
            await self.cut()
        self._speaks.set()

    async def _line(
        self, silo: asyncio.StreamReader, back: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        ends = [back]
        try:
            hub, there = await asyncio.open_connection("127.0.0.1", self._to)
            ends.append(there)
            ways = (self._pass_on(silo, there), self._pass_on(hub, back))
            tasks = [asyncio.create_task(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in tasks:
                    way.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # nobody is there, or it was cut: either way both ends hear of it now
        finally:
            self._lines.discard(task)
            for end in ends:
                end.transport.abort()

    async def _pass_on(
        self, one: asyncio.StreamReader, other: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while True:
                await self._speaks.wait()
                data = await one.read(_PIECE)
                if not data:
                    return
                await self._speaks.wait()
                other.write(data)
                await other.drain()
