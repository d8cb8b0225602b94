"""Asking whether the aggregator accepts a silo, without disturbing anybody."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from wire_hub import LIMITS, UPLOAD, hello, hub, silo
from wire_samples import Authority, Parties

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.wire.acceptance import probe
from fedit_secure.wire.client import connect


async def test_who_is_accepted_is_told_so_and_nobody_hears_of_it(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        await probe(where.address, parties.silo_tls(0))
        assert where.peers.empty()


async def test_a_link_outlives_a_probe_with_its_own_serial(
    parties: Parties, tmp_path: Path
) -> None:
    """A higher one would have the aggregator refuse the daemon's next call."""
    leaf, same = (parties.silos[0].leaf(serial=7) for _ in range(2))
    assert leaf != same
    async with hub(parties, tmp_path) as where:
        link = await connect(
            where.address, parties.silo_tls(0, leaf), LIMITS, patience_seconds=0
        )
        await link.send(hello(parties, 0))
        peer, _ = await where.peers.get()
        await probe(where.address, parties.silo_tls(0, same))
        await link.send(UPLOAD)
        async with asyncio.timeout(30):
            assert await peer.receive() == UPLOAD
        await link.close()


async def test_who_is_refused_is_told_why(parties: Parties, tmp_path: Path) -> None:
    stranger = Authority("silo", "north")
    ended = parties.silos[0].leaf(now=datetime.now(UTC) - timedelta(days=200))
    false = Parties(Authority("aggregator", "hub"), parties.silos)
    async with hub(parties, tmp_path) as where:
        for tls in (
            parties.silo_tls(0, stranger.leaf()),
            parties.silo_tls(0, ended),
            false.silo_tls(0),
        ):
            with pytest.raises(ConnectError, match=f"{where.address}"):
                await probe(where.address, tls)
        async with silo(where, parties, 1):  # it went on serving
            pass


async def test_nobody_there_and_nobody_who_answers(parties: Parties) -> None:
    server = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(DeadlineExceeded, match="didn't answer within 1 s"):
        await probe(address, parties.silo_tls(0), seconds=1)
    server.close()
    with pytest.raises(ConnectError):
        await probe(address, parties.silo_tls(0), seconds=5)
