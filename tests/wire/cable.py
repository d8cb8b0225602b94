"""A cable between a silo and the aggregator: it counts, slows down, and can be cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cable:
    """A TCP relay on loopback. `up` counts the bytes from silo to aggregator.

    With `cut_after` it is cut once that many have passed; `bytes_a_second` slows them.
    """

    def __init__(
        self, cut_after: int | None = None, bytes_a_second: float | None = None
    ) -> None:
        self.up = 0
        self.cut_after = cut_after
        self.bytes_a_second = bytes_a_second
        self.was_cut = asyncio.Event()
        self.address = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def relay(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._upwards(reader, back))
                group.create_task(_downwards(there, writer))
        except* (ConnectionError, EOFError):
            pass
        finally:
            self._tasks.discard(task)
            for end in (back, writer):
                end.close()
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()

    async def _upwards(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(16 * 1024):
            if self.cut_after is not None:
                data = data[: self.cut_after - self.up]
            self.up += len(data)
            writer.write(data)
            await writer.drain()
            if self.up == self.cut_after:
                self.was_cut.set()
                raise EOFError
            if self.bytes_a_second is not None:
                await asyncio.sleep(len(data) / self.bytes_a_second)
        raise EOFError

    async def pull(self) -> None:
        """Cut it now."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _downwards(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
    raise EOFError


@asynccontextmanager
async def cable_to(
    address: str, cut_after: int | None = None, bytes_a_second: float | None = None
) -> AsyncIterator[Cable]:
    """A cable that ends at `host:port`; its own address is where a silo dials."""
    cable = Cable(cut_after, bytes_a_second)
    port = int(address.rsplit(":", 1)[1])
    server = await asyncio.start_server(
        lambda reader, writer: cable.relay(port, reader, writer), "127.0.0.1", 0
    )
    cable.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cable
    finally:
        server.close()
        await cable.pull()
