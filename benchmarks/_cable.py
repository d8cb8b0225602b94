"""A cable from a silo to the aggregator: it counts bytes, slows them down, and is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

_PIECE = 16 * 1024  # bytes taken from a socket at a time
_LATE = 1.0  # seconds

CLOSE = "close"  # both ends are told, and what was passed on arrives
RESET = "reset"  # both ends are told at once, and what lay in between is gone
SILENCE = "silence"  # nobody is told: what the silo sends from now on goes nowhere


class Cable:
    """A TCP relay on loopback; `up` counts what went from silo to aggregator.

    The first connections are cut after so many bytes of their own as `cuts` names, one
    number each, in the way of `how`. `bytes_a_second` slows all of them, and everything
    takes `delay_seconds` to the other end. Over the first connection what the aggregator
    says takes a second once `late_after` bytes have gone up.
    """

    def __init__(
        self,
        cuts: Iterable[int] = (),
        bytes_a_second: float | None = None,
        late_after: int | None = None,
        how: str = RESET,
        delay_seconds: float = 0.0,
    ) -> None:
        self.up = 0
        self.cuts = list(cuts)
        self.how = how
        self.delay_seconds = delay_seconds
        self.bytes_a_second = bytes_a_second
        self.late_after = late_after
        self.address = ""
        self._relays: set[asyncio.Task[None]] = set()
        self._pulled = asyncio.Event()

    async def relay(
        self, port: int, silo: asyncio.StreamReader, back: asyncio.StreamWriter
    ) -> None:
        """One connection, until an end closes it or it is cut."""
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        hub, there = await asyncio.open_connection("127.0.0.1", port)
        left = self.cuts.pop(0) if self.cuts else None
        late_after, self.late_after = self.late_after, None
        silent = asyncio.Event()
        ways = {
            asyncio.create_task(self._upwards(silo, there, left, silent)),
            asyncio.create_task(self._downwards(hub, back, late_after, silent)),
            asyncio.create_task(self._pulled.wait()),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (there, back):
                if self.how == CLOSE:
                    end.close()
                else:
                    end.transport.abort()
            self._relays.discard(task)

    async def pull(self) -> None:
        """Cut every connection now."""
        self._pulled.set()
        await asyncio.gather(*self._relays)
        self._pulled.clear()

    async def _upwards(
        self,
        silo: asyncio.StreamReader,
        hub: asyncio.StreamWriter,
        left: int | None,
        silent: asyncio.Event,
    ) -> None:
        while data := await silo.read(_PIECE if left is None else min(_PIECE, left)):
            self.up += len(data)
            await self._pass_on(data, hub)
            if left is not None and (left := left - len(data)) == 0:
                if self.how == SILENCE:
                    silent.set()
                    await self._swallow(silo)
                return
            if self.bytes_a_second is not None:
                await asyncio.sleep(len(data) / self.bytes_a_second)

    async def _downwards(
        self,
        hub: asyncio.StreamReader,
        silo: asyncio.StreamWriter,
        late_after: int | None,
        silent: asyncio.Event,
    ) -> None:
        while data := await hub.read(_PIECE):
            if silent.is_set():
                continue
            if late_after is not None and self.up >= late_after:
                await asyncio.sleep(_LATE)
            await self._pass_on(data, silo)

    async def _pass_on(self, data: bytes, to: asyncio.StreamWriter) -> None:
        if self.delay_seconds:
            later = asyncio.get_running_loop().call_later
            later(self.delay_seconds, to.write, data)
        else:
            to.write(data)
            await to.drain()

    async def _swallow(self, silo: asyncio.StreamReader) -> None:
        while data := await silo.read(_PIECE):
            self.up += len(data)


@asynccontextmanager
async def cable_to(address: str, cable: Cable) -> AsyncIterator[Cable]:
    """The cable laid to `host:port`; its own address is where a silo dials."""
    port = int(address.rsplit(":", 1)[1])
    server = await asyncio.start_server(
        lambda silo, back: cable.relay(port, silo, back), "127.0.0.1", 0
    )
    cable.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield cable
    finally:
        server.close()
        await cable.pull()
