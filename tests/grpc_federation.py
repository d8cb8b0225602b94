"""A small federation over gRPC with mutual TLS on loopback: whole daemons, real links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from small_federation import LENGTH, SmallFederation

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.federation.identity import issue_leaf
from fedit_secure.federation.update import GridState
from fedit_secure.silo.daemon import SiloDaemon
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.spool import Spool
from fedit_secure.wire import frames as f
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import PeerLink
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.uploads import Uploads

VICTIM = "s0"


@dataclass
class Tampering:
    """The aggregator's end of one silo; what is sent through it is what `do` makes of it."""

    inner: PeerLink
    do: Callable[[f.Frame], f.Frame]
    heard: list[tuple[str, f.Frame]]

    @property
    def silo(self) -> int:
        return self.inner.silo

    @property
    def name(self) -> str:
        return self.inner.name

    async def send(self, frame: f.Frame) -> None:
        await self.inner.send(self.do(frame) if self.name == VICTIM else frame)

    async def receive(self) -> f.Frame:
        frame = await self.inner.receive()
        self.heard.append((self.name, frame))
        return frame

    async def close(self) -> None:
        await self.inner.close()


async def release(
    federation: SmallFederation,
    do: Callable[[f.Frame], f.Frame] = lambda frame: frame,
    seconds: float = 60,
) -> tuple[GridState, list[tuple[str, f.Frame]]]:
    """One round over loopback: the final state, and all that silos said in frames."""
    charter, now = federation.charter, datetime.now(UTC)
    limits = Limits.of(charter.secagg_params())
    room = 2 * len(charter.roster) * limits.payload_bytes
    uploads = Uploads(Spool(federation.root / "spool", room), limits)
    folder = RunFolder(federation.root / "run", charter, federation.initial)
    aggregator = Aggregator(
        charter,
        federation.approvals,
        federation.aggregator.signing,
        folder,
        on_event=federation.events.append,
        uploads=uploads,
    )
    heard: list[tuple[str, f.Frame]] = []

    async def on_connect(link: PeerLink, hello: f.Hello) -> None:
        await aggregator.on_connect(Tampering(link, do, heard), hello)

    roster = [(row.name, row.issuer_certificate) for row in charter.roster]
    leaf = issue_leaf(federation.aggregator, (), now)
    server = AggregatorServer(
        "127.0.0.1",
        0,
        Tls.of_aggregator(leaf, roster),
        roster,
        on_connect,
        uploads,
        aggregator,
        limits,
    )
    address = f"127.0.0.1:{await server.start()}"

    async def silo(party: Any) -> GridState:
        hub = charter.aggregator

        async def dial():
            mine = issue_leaf(party, (), datetime.now(UTC))
            tls = Tls.of_silo(mine, hub.name, hub.issuer_certificate)
            return await connect(address, tls, limits, patience_seconds=5)

        async def tune(round: int, state: GridState, charge: Any) -> np.ndarray:
            await charge()
            seed = [charter.silo_index(party.name), round]
            drawn = np.random.default_rng(seed).normal(0, 0.02, LENGTH)
            federation.updates[party.name, round] = [drawn.astype(np.float32)]
            return federation.updates[party.name, round][-1]

        with open_journal(federation.root / party.name) as journal:
            books = federation.books(party, journal)
            books.admit(bytes(32))
            daemon = SiloDaemon(charter, party.name, party.signing, books, tune)
            return await daemon.run(dial)

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            silos = [group.create_task(silo(party)) for party in federation.silos]
            state = await aggregator.run()
    finally:
        await server.stop(0.2)
    assert all(task.result().digest() == state.digest() for task in silos)
    return state, heard
