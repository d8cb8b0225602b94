"""An aggregator's server on loopback with real mutual TLS, and silos that dial it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from wire_samples import HEADER, HELLO, Parties

from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.storage.spool import Spool
from fedit_secure.wire import frames as f
from fedit_secure.wire.client import GrpcSiloLink, connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import PeerLink
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.uploads import Uploads

LENGTH = 700_001
LIMITS = Limits(silos=4, length=LENGTH, payload_bytes=3 * LENGTH + 8)
PAYLOAD = np.random.default_rng(5).bytes(LIMITS.payload_bytes)
UPLOAD = m.MaskedUpload(
    replace(
        HEADER, length=len(PAYLOAD), payload_digest=digest("fedit/payload/v1", PAYLOAD)
    ),
    PAYLOAD,
)


class Blobs(dict[bytes, bytes]):
    """A blob source."""


@dataclass
class Hub:
    server: AggregatorServer
    spool: Spool
    uploads: Uploads
    blobs: Blobs
    address: str = ""
    peers: asyncio.Queue[tuple[PeerLink, f.Hello]] = field(
        default_factory=asyncio.Queue
    )


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def hub(
    parties: Parties,
    folder: Path,
    limits: Limits = LIMITS,
    on_connect: Callable[[PeerLink, f.Hello], Awaitable[None]] | None = None,
    **options: float,
) -> AsyncIterator[Hub]:
    spool = Spool(folder / "spool", 10 * limits.payload_bytes)
    uploads = Uploads(spool, limits)
    uploads.expect(HEADER.ctx)
    blobs = Blobs()
    peers: asyncio.Queue[tuple[PeerLink, f.Hello]] = asyncio.Queue()

    async def note(peer: PeerLink, hello: f.Hello) -> None:
        await peers.put((peer, hello))

    server = AggregatorServer(
        "127.0.0.1",
        0,
        Tls.of_aggregator(parties.aggregator.leaf(), parties.roster),
        parties.roster,
        on_connect or note,
        uploads,
        blobs,
        limits,
        **options,
    )
    port = await server.start()
    try:
        yield Hub(server, spool, uploads, blobs, f"127.0.0.1:{port}", peers)
    finally:
        await server.stop(0.2)


@asynccontextmanager
async def silo(
    where: Hub,
    parties: Parties,
    number: int = 0,
    address: str | None = None,
    **options: float,
) -> AsyncIterator[GrpcSiloLink]:
    link = await connect(
        address or where.address,
        parties.silo_tls(number),
        LIMITS,
        patience_seconds=0,
        **options,
    )
    try:
        yield link
    finally:
        await link.close()


def hello(parties: Parties, number: int) -> f.Hello:
    return replace(HELLO, silo=parties.silos[number].name)
