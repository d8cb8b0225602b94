"""Silo and aggregator over gRPC on loopback, with real mutual TLS."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from wire_hub import LENGTH, LIMITS, PAYLOAD, UPLOAD, Hub, hello, hub, silo, until
from wire_samples import HELLO, NOW, OFFER, PUBLISHED, Authority, Parties, h

from fedit_secure.errors import (
    ConfigError,
    ConnectError,
    MalformedMessage,
    PolicyRefusal,
)
from fedit_secure.secagg import messages as m
from fedit_secure.wire import calls
from fedit_secure.wire import frames as f
from fedit_secure.wire.client import connect
from fedit_secure.wire.codec import encode
from fedit_secure.wire.limits import CHUNK
from fedit_secure.wire.link import PeerLink
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.tls import Tls


def sha(blob: bytes | memoryview) -> bytes:
    return hashlib.sha256(blob).digest()


async def test_frames_go_both_ways_in_order(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties, 2) as link:
        await link.send(hello(parties, 2))
        peer, said = await where.peers.get()
        assert (peer.silo, peer.name) == (2, "south")
        assert said == hello(parties, 2)
        for number in range(200):
            await peer.send(replace(OFFER, round=number))
        for number in range(200):
            assert await link.receive() == replace(OFFER, round=number)
        for number in range(200):
            await link.send(f.Ready(number))
            assert await peer.receive() == f.Ready(number)


async def test_what_was_sent_before_a_close_arrives(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        async with silo(where, parties) as link:
            await link.send(HELLO)
            peer, _ = await where.peers.get()
            await link.send(f.Ready(1))
        assert await peer.receive() == f.Ready(1)
        with pytest.raises(ConnectError, match="closed the link"):
            await peer.receive()
        async with silo(where, parties) as link:
            await link.send(HELLO)
            peer, _ = await where.peers.get()
            await peer.send(f.Withdraw(1, 1, "bye"))
            await peer.close()
            assert await link.receive() == f.Withdraw(1, 1, "bye")
            with pytest.raises(ConnectError, match="aggregator closed the link"):
                await link.receive()


async def test_an_upload_arrives_whole_and_leaves_no_file(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        peer, _ = await where.peers.get()
        await link.upload(UPLOAD)
        await link.send(f.Ready(1))
        got = await peer.receive()
        assert isinstance(got, m.MaskedUpload)
        assert got.header == UPLOAD.header
        assert bytes(got.payload) == PAYLOAD
        assert where.spool.used == len(PAYLOAD)
        assert not list((tmp_path / "spool").iterdir())
        del got
        await until(lambda: not where.spool.used)
        assert await peer.receive() == f.Ready(1)


async def test_a_published_sum_is_whole_again(parties: Parties, tmp_path: Path) -> None:
    total = np.random.default_rng(1).integers(-(2**31), 2**31, LENGTH).astype(np.int32)
    published = replace(PUBLISHED, total=total)
    async with (
        hub(parties, tmp_path) as where,
        silo(where, parties, 0) as one,
        silo(where, parties, 1) as two,
    ):
        for number, link in enumerate((one, two)):
            await link.send(hello(parties, number))
            peer, _ = await where.peers.get()
            await peer.send(published)
            await peer.send(f.Phase(1, "confirm"))
        for link in (one, two):
            got = await link.receive()
            assert isinstance(got, m.PublishedSum)
            assert got.total.dtype == np.int32
            assert got.signed_digest() == published.signed_digest()
            assert np.array_equal(got.total, total)
            assert await link.receive() == f.Phase(1, "confirm")


async def test_blobs_are_fetched_by_address(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        for size in (0, 1, CHUNK, 2 * CHUNK + 1):
            blob = PAYLOAD[:1] * size
            where.blobs[sha(blob)] = blob
            assert await link.fetch(sha(blob), size, sha) == blob
        where.blobs[h(1)] = b"own digest"
        assert await link.fetch(h(1), 99, lambda blob: h(1)) == b"own digest"
        with pytest.raises(MalformedMessage, match="isn't 0101"):
            await link.fetch(h(1), 99, sha)
        with pytest.raises(MalformedMessage, match="10 bytes, above 9"):
            await link.fetch(h(1), 9, lambda blob: h(1))
        with pytest.raises(ConnectError, match="no blob 0202"):
            await link.fetch(h(2), 9, sha)


# ------------------------------------------------------------------------- who is who


async def refused(where: Hub, tls: Tls, match: str) -> None:
    with pytest.raises(ConnectError, match=match):
        await connect(where.address, tls, LIMITS, patience_seconds=0, call_seconds=5)
    assert where.peers.empty()


async def test_tls_cross_impersonation(parties: Parties, tmp_path: Path) -> None:
    """A silo's own issuer can't vouch for another silo's name."""
    async with hub(parties, tmp_path) as where:
        posing = parties.silos[1].leaf(name="north")
        await refused(where, parties.silo_tls(0, posing), "issuer that the charter")


async def test_another_silos_name_in_the_hello(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties, 1) as link:
        await link.send(hello(parties, 0))
        answer = await link.receive()
        assert isinstance(answer, f.CannotServe)
        assert answer.exit_status == 2
        assert "'east' isn't one of 'north'" in answer.reason
        with pytest.raises(ConnectError):
            await link.receive()
        assert where.peers.empty()


async def test_a_stranger_is_refused(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where:
        stranger = Authority("silo", "north")
        await refused(
            where, parties.silo_tls(0, stranger.leaf()), "hung up.*certificate"
        )


async def test_the_aggregators_leaf_is_no_silo(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        await refused(
            where,
            parties.silo_tls(0, parties.aggregator.leaf()),
            "hung up.*certificate",
        )
        other_role = parties.silos[0].leaf(role="aggregator")
        await refused(where, parties.silo_tls(0, other_role), "names no silo")


async def test_an_expired_leaf_is_refused(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where:
        old = parties.silos[0].leaf(now=NOW - timedelta(days=95))
        await refused(where, parties.silo_tls(0, old), "hung up.*certificate")


async def test_an_older_leaf_is_refused(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where:
        tls = parties.silo_tls(0, parties.silos[0].leaf(serial=12))
        link = await connect(where.address, tls, LIMITS, patience_seconds=0)
        await link.close()
        stolen = parties.silo_tls(0, parties.silos[0].leaf(serial=11))
        await refused(where, stolen, "older than one that it has shown")


async def test_a_false_aggregator_is_refused(parties: Parties, tmp_path: Path) -> None:
    """Another party's server, even a rostered silo's, isn't the aggregator."""
    async with hub(parties, tmp_path) as where:
        for root in (parties.silos[1], Authority("aggregator", "hub")):
            tls = Tls.of_silo(parties.silos[0].leaf(), "hub", root.pem)
            await refused(where, tls, "isn't the aggregator that the charter")
        elsewhere = Tls.of_silo(
            parties.silos[0].leaf(), "another", parties.aggregator.pem
        )
        await refused(where, elsewhere, "names another party")


async def test_a_clock_that_is_wrong_is_named(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where:
        old = parties.aggregator.leaf(now=NOW - timedelta(days=95))
        where.server.renew(Tls.of_aggregator(old, parties.roster))
        match = r"'hub' is valid only from .* \(the clock here says 20.* UTC\)"
        await refused(where, parties.silo_tls(0), match)


async def test_plaintext_and_certificateless_clients_are_refused(
    parties: Parties, tmp_path: Path
) -> None:
    roots = grpc.ssl_channel_credentials(parties.aggregator.pem.encode())
    name = (("grpc.ssl_target_name_override", "aggregator.hub.fedit"),)
    async with hub(parties, tmp_path) as where:
        for channel in (
            grpc.aio.insecure_channel(where.address),
            grpc.aio.secure_channel(where.address, roots, name),
        ):
            async with channel:
                call = channel.stream_stream(calls.CONNECT)(timeout=60)
                with pytest.raises(grpc.aio.AioRpcError):
                    await call.read()
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert where.peers.empty()


async def test_a_second_connection_replaces_the_first(
    parties: Parties, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        hub(parties, tmp_path) as where,
        silo(where, parties) as first,
        silo(where, parties) as second,
    ):
        await first.send(HELLO)
        old, _ = await where.peers.get()
        with caplog.at_level(logging.WARNING):
            await second.send(HELLO)
            new, _ = await where.peers.get()
        assert "silo 'north' connected a second time" in caplog.text
        with pytest.raises(ConnectError):
            await old.receive()
        assert isinstance(await first.receive(), f.CannotServe)
        with pytest.raises(ConnectError):
            await first.receive()
        await new.send(OFFER)
        assert await second.receive() == OFFER


async def test_another_wire_version_is_told_so(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(replace(HELLO, wire_version=2, package_version="9.9"))
        answer = await link.receive()
        assert isinstance(answer, f.CannotServe)
        assert "wire version 1" in answer.reason
        assert "9.9" in answer.reason


async def test_a_refusal_of_the_service_reaches_the_silo(
    parties: Parties, tmp_path: Path
) -> None:
    async def refuse(peer: PeerLink, said: f.Hello) -> None:
        raise PolicyRefusal("another charter")

    async with (
        hub(parties, tmp_path, on_connect=refuse) as where,
        silo(where, parties) as link,
    ):
        await link.send(HELLO)
        assert await link.receive() == f.CannotServe("another charter", 6)


async def test_a_renewed_leaf_is_shown_without_a_restart(
    parties: Parties, tmp_path: Path
) -> None:
    later = Authority("aggregator", "hub")
    async with hub(parties, tmp_path) as where:
        where.server.renew(Tls.of_aggregator(later.leaf(), parties.roster))
        await refused(where, parties.silo_tls(0), "isn't the aggregator")
        tls = Tls.of_silo(parties.silos[0].leaf(), "hub", later.pem)
        link = await connect(where.address, tls, LIMITS, patience_seconds=0)
        await link.close()


# ------------------------------------------------------------------- broken and hostile


async def test_nobody_there(parties: Parties, tmp_path: Path) -> None:
    async with hub(parties, tmp_path) as where:
        pass
    with pytest.raises(ConnectError, match="can't be reached"):
        await connect(where.address, parties.silo_tls(0), LIMITS, patience_seconds=0.5)


async def test_a_silo_waits_for_an_aggregator_that_comes_late(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        port = int(where.address.rsplit(":", 1)[1])
    dialling = asyncio.create_task(
        connect(where.address, parties.silo_tls(0), LIMITS, patience_seconds=20)
    )
    await asyncio.sleep(0.3)
    assert not dialling.done()
    server = AggregatorServer(
        "127.0.0.1",
        port,
        Tls.of_aggregator(parties.aggregator.leaf(), parties.roster),
        parties.roster,
        lambda peer, said: asyncio.sleep(0),
        where.uploads,
        where.blobs,
        LIMITS,
    )
    assert await server.start() == port
    link = await dialling
    await link.close()
    await server.stop(0.2)


async def test_a_taken_port_is_a_configuration_error(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        second = AggregatorServer(
            "127.0.0.1",
            int(where.address.rsplit(":", 1)[1]),
            Tls.of_aggregator(parties.aggregator.leaf(), parties.roster),
            parties.roster,
            lambda peer, said: asyncio.sleep(0),
            where.uploads,
            where.blobs,
            LIMITS,
        )
        with pytest.raises(ConfigError, match="can't listen on 127"):
            await second.start()


async def test_the_aggregators_end_of_a_broken_connection(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        peer, _ = await where.peers.get()
        link._call.cancel()
        with pytest.raises(ConnectError):
            async with asyncio.timeout(60):
                await peer.receive()
        with pytest.raises(ConnectError):
            await link.receive()


async def test_the_silos_end_of_a_stopped_aggregator(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        link = await connect(where.address, parties.silo_tls(0), LIMITS)
        await link.send(HELLO)
        await where.peers.get()
    with pytest.raises(ConnectError):
        async with asyncio.timeout(60):
            await link.receive()
    await link.close()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xff\xff", "aren't a Envelope"),
        (encode(OFFER), "never sends one"),
        (encode(HELLO) + b"\x00" * 600_000, "above 524288"),
    ],
)
async def test_a_malformed_frame_ends_the_connection(
    parties: Parties, tmp_path: Path, data: bytes, match: str
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(HELLO)
        peer, _ = await where.peers.get()
        await link._stream.send(data)
        with pytest.raises(MalformedMessage, match=match):
            await peer.receive()
        with pytest.raises(MalformedMessage, match=match):
            await link.receive()


async def test_a_silo_that_says_nothing_is_cut_off(
    parties: Parties, tmp_path: Path
) -> None:
    async with (
        hub(parties, tmp_path, hello_seconds=0.2) as where,
        silo(where, parties) as link,
    ):
        with pytest.raises(ConnectError, match="no Hello"):
            await link.receive()


async def test_a_silo_that_stops_reading_is_cut_off(
    parties: Parties, tmp_path: Path
) -> None:
    """A slow or hostile silo costs the aggregator a bounded queue and a bounded wait."""
    big = f.Welcome((b"x" * 8000,) * 4, None, 0, h(1))
    async with (
        hub(parties, tmp_path, progress_seconds=0.5) as where,
        silo(where, parties) as link,
    ):
        await link.send(HELLO)
        peer, _ = await where.peers.get()
        with pytest.raises(ConnectError):  # noqa: PT012
            for _ in range(5000):
                await peer.send(big)
