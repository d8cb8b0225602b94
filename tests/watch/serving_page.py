"""A page, served as a daemon serves it, for a test to ask."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fedit_secure.federation.page import PageConfig
from fedit_secure.simulation.processes import free_address
from fedit_secure.watch.metrics import Metrics
from fedit_secure.watch.server import serving
from fedit_secure.watch.snapshot import Snapshot


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    text: str


async def ask(
    address: str,
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request, from a worker thread: the page is in this one's loop."""

    def talk() -> Answer:
        connection = http.client.HTTPConnection(address, timeout=60)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    return await asyncio.to_thread(talk)


async def until_up(address: str) -> None:
    """Until it answers."""
    async with asyncio.timeout(60):
        while True:
            try:
                await ask(address, "/healthz")
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                return


@asynccontextmanager
async def shown(
    snapshot: Callable[[], Snapshot], hosts: tuple[str, ...] = ()
) -> AsyncIterator[str]:
    """The page of what `snapshot` says; yields host:port."""
    address = free_address()
    config = PageConfig(listen=address, hosts=hosts)
    async with serving(config, snapshot, Metrics()):
        await until_up(address)
        yield address
