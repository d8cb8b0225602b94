"""Many silos at once: a slow one holds nobody up, and memory doesn't grow with them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _cable import Cable, cable_to
from wire_hub import PAYLOAD, UPLOAD, hello, hub, silo
from wire_samples import HEADER, HELLO, Authority, Parties

from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.storage.spool import SpoolFile
from fedit_secure.wire.client import GrpcSiloLink, connect
from fedit_secure.wire.limits import CHUNK, Limits

SLOW = 300_000  # bytes a second: seven seconds for this upload
LENGTH = 8_000_000  # coordinates: an upload of 24 MB


async def test_a_slow_silo_beside_fast_ones(parties: Parties, tmp_path: Path) -> None:
    """The fast ones are through while the slow one has most of its upload to go."""
    headers = [replace(UPLOAD.header, silo=number) for number in range(4)]
    async with (
        hub(parties, tmp_path) as where,
        cable_to(where.address, Cable(bytes_a_second=SLOW)) as thin,
        silo(where, parties, 0, thin.address) as slow,
        silo(where, parties, 1) as one,
        silo(where, parties, 2) as two,
        silo(where, parties, 3) as three,
    ):
        peers = []
        for number, link in enumerate((slow, one, two, three)):
            await link.send(hello(parties, number))
            peers.append((await where.peers.get())[0])
        began = time.monotonic()
        creeping = asyncio.create_task(slow.upload(m.MaskedUpload(headers[0], PAYLOAD)))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            for header, link in zip(headers[1:], (one, two, three), strict=True):
                group.create_task(link.upload(m.MaskedUpload(header, PAYLOAD)))
        fast = time.monotonic() - began
        assert not creeping.done()
        assert thin.up < len(PAYLOAD) * 3 / 4
        for header, peer in zip(headers[1:], peers[1:], strict=True):
            assert (await peer.receive()).header == header
        thin.bytes_a_second = None
        async with asyncio.timeout(10):
            await creeping
            got = await peers[0].receive()
        assert isinstance(got, m.MaskedUpload)
        assert bytes(got.payload) == PAYLOAD
    assert fast < len(PAYLOAD) / SLOW


async def test_a_silo_waits_for_a_slow_disk(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What isn't on disk yet stays with the silo, but for the little that is under way."""
    write, written, ahead = SpoolFile.write, 0, []

    def slowly(file: SpoolFile, offset: int, data: bytes) -> None:
        nonlocal written
        time.sleep(0.02)
        ahead.append(cable.up - written)
        write(file, offset, data)
        written += len(data)

    monkeypatch.setattr(SpoolFile, "write", slowly)
    limits = Limits(4, LENGTH, 3 * LENGTH + 8)
    payload = bytes(limits.payload_bytes)
    header = replace(
        UPLOAD.header,
        length=len(payload),
        payload_digest=digest("fedit/payload/v1", payload),
    )
    async with (
        hub(parties, tmp_path, limits) as where,
        cable_to(where.address, Cable()) as cable,
    ):
        link = await connect(cable.address, parties.silo_tls(0), limits)
        await link.send(hello(parties, 0))
        await where.peers.get()
        async with asyncio.timeout(40):
            await link.upload(m.MaskedUpload(header, payload))
        await link.close()
    assert written == len(payload)
    assert max(ahead) <= 3 * CHUNK


async def peak_with(
    folder: Path, hub_tls: Authority, silos: list[Authority], uploads: int
) -> int:
    """Bytes at most in memory of a server process that adds so many uploads at once."""
    key, chain = hub_tls.leaf()
    what = {
        "roster": [(party.name, party.pem) for party in silos],
        "key": key.decode(),
        "chain": chain.decode(),
        "roots": "".join(party.pem for party in silos),
        "folder": str(folder / f"spool-{uploads}"),
        "uploads": uploads,
        "length": LENGTH,
    }
    script = Path(__file__).with_name("adding_server.py")
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdin=pipe, stdout=pipe
    )
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(what).encode() + b"\n")
    said = json.loads(await server.stdout.readline())
    payload = np.random.default_rng(1).bytes(said["bytes"] - 8) + bytes(8)
    limits = Limits(len(silos), LENGTH, said["bytes"])
    parties = Parties(hub_tls, silos)

    async def upload(number: int) -> None:
        link = await connect(said["address"], parties.silo_tls(number), limits)
        await link.send(replace(HELLO, silo=silos[number].name))
        await link.receive()
        header = replace(
            HEADER,
            silo=number,
            ctx=bytes.fromhex(said["ctx"]),
            key_set=bytes(32),
            dealers_digest=bytes.fromhex(said["dealers_digest"]),
            length=len(payload),
            payload_digest=digest("fedit/payload/v1", payload),
        )
        await link.upload(m.MaskedUpload(header, payload))
        links.append(link)

    links: list[GrpcSiloLink] = []
    try:
        async with asyncio.timeout(40):
            await asyncio.gather(*map(upload, range(uploads)))
            return int(json.loads(await server.stdout.readline())["peak"])
    finally:
        server.kill()
        await server.wait()
        for link in links:
            await link.close()


@pytest.mark.timeout(120)
async def test_memory_is_flat_in_the_number_of_silos(tmp_path: Path) -> None:
    """Uploads of 24 MB, all at once, over gRPC into the real spool and the real step."""
    hub_tls = Authority("aggregator", "hub")
    silos = [Authority("silo", f"silo-{number}") for number in range(6)]
    two = await peak_with(tmp_path, hub_tls, silos, 2)
    six = await peak_with(tmp_path, hub_tls, silos, 6)
    assert six < 1.15 * two, f"{two / 1e6:.0f} MB for two, {six / 1e6:.0f} MB for six"
