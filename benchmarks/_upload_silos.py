"""Silos with uploads of random bytes, over real links, and the aggregator that takes them.

An upload is what a masked one looks like: bytes without any pattern, below a header that
the silo's identity signs. All silos send the same bytes, so the sum is known.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.federation.identity import Identity, create_identity, issue_leaf
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.wire import frames as f
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import SiloLink
from fedit_secure.wire.tls import Tls

HUB = Path(__file__).with_name("_upload_hub.py")


@dataclass(frozen=True, slots=True)
class Wave:
    """One upload of each silo: seconds until each had its acknowledgement, what the
    aggregator's process had in memory at most, and what of it was there before."""

    seconds: Mapping[int, float]
    anon_before: int
    anon_until_whole: int
    anon: int
    rss: int


class Silos:
    """The silos of one federation, each with a link; `async with` starts their hub.

    Args:
        silos: N, the roster's size.
        length: coordinates of the update; three bytes each.
        disk_seconds: how much longer each write of the hub's takes.
        progress_seconds: how long a silo's transfer may stand still.
    """

    def __init__(
        self,
        silos: int,
        length: int,
        *,
        disk_seconds: float = 0.0,
        progress_seconds: float = 60.0,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="fedit-streaming-")
        home, now = Path(self.folder.name), datetime.now(UTC)
        names = [f"silo-{i:03}" for i in range(silos)]
        self.hub = create_identity(home / "hub", "hub", "aggregator", "x", now=now)
        self.identities = [
            create_identity(home / name, name, "silo", "x", now=now) for name in names
        ]
        self.disk_seconds, self.length = disk_seconds, length
        self.progress_seconds = progress_seconds
        size = 3 * length + 8
        self.limits = Limits(silos, length, size)
        self.payload = np.random.default_rng(silos).bytes(size - 8) + bytes(8)
        self.digest = digest("fedit/payload/v1", self.payload)
        self.address = ""
        self.whole = [asyncio.Event() for _ in names]
        self._links: dict[int, tuple[str, SiloLink]] = {}
        self._wave: dict[str, Any] = {}

    def leaf(self, party: Identity) -> tuple[bytes, bytes]:
        """A fresh TLS key and chain."""
        return issue_leaf(party, (), datetime.now(UTC))

    async def __aenter__(self) -> Silos:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(HUB), stdin=pipe, stdout=pipe
        )
        key, chain = self.leaf(self.hub)
        cards = [party.card for party in self.identities]
        await self._tell(
            roster=[(card.name, card.issuer_certificate) for card in cards],
            seeds=[p.signing.seed().hex() for p in (self.hub, *self.identities)],
            key=key.decode(),
            chain=chain.decode(),
            roots="".join(card.issuer_certificate for card in cards),
            folder=str(Path(self.folder.name) / "spool"),
            length=self.length,
            disk_seconds=self.disk_seconds,
        )
        said = await self._hear()
        assert said["bytes"] == len(self.payload)
        self.address = said["address"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(link.close() for _, link in self._links.values()))
        self._process.kill()
        await self._process.wait()
        self.folder.cleanup()

    async def wave(
        self,
        silos: Mapping[int, str],
        on_done: Callable[[int], None] = lambda silo: None,
    ) -> Wave:
        """All these silos upload at once, each over the address that it is given; it is
        dialled before the time runs. A link that ends is made anew there. `on_done` is
        told of each silo that has its acknowledgement."""
        for silo, address in silos.items():
            self.whole[silo].clear()
            if self._links.get(silo, ("",))[0] != address:
                await self._dial(silo, address)
        await self._tell(silos=sorted(silos))
        self._wave = await self._hear()
        seconds: dict[int, float] = {}
        began = time.monotonic()

        async def send(silo: int) -> None:
            await self._send(silo, silos[silo])
            seconds[silo] = time.monotonic() - began
            on_done(silo)

        listening = asyncio.create_task(self._listen())
        try:
            async with asyncio.TaskGroup() as group:
                for silo in silos:
                    group.create_task(send(silo))
        except BaseException:
            listening.cancel()
            raise
        anon_until_whole, end = await listening
        assert end["sum"] == self._sum_of(len(silos)), "it added other bytes"
        before = self._wave["anon"]
        return Wave(seconds, before, anon_until_whole, end["anon"], end["rss"])

    def _sum_of(self, uploads: int) -> str:
        """SHA-256 of so many times the payload's coordinates, modulo 2^24."""
        total = np.zeros((self.length, 4), np.uint8)
        coordinates = np.frombuffer(self.payload, np.uint8, 3 * self.length)
        total[:, :3] = coordinates.reshape(-1, 3)
        ring = total.view("<u4")
        ring *= np.uint32(uploads)
        ring &= np.uint32((1 << 24) - 1)
        return hashlib.sha256(ring.data).hexdigest()

    async def _listen(self) -> tuple[int, dict[str, Any]]:
        until_whole = 0
        while "sum" not in (said := await self._hear()):
            if "whole" in said:
                until_whole = until_whole or said["anon"]
                self.whole[said["whole"]].set()
        return until_whole, said

    async def _send(self, silo: int, address: str) -> None:
        """As the daemon does: until it is acknowledged, over as many links as it takes."""
        header = m.UploadHeader(
            silo,
            *(
                bytes.fromhex(self._wave[n])
                for n in ("ctx", "key_set", "dealers_digest")
            ),
            len(self.payload),
            self.digest,
        )
        signed = checks.sign(self.identities[silo].signing, header)
        while True:
            try:
                _, link = self._links[silo]
                return await _over(link, m.MaskedUpload(signed, self.payload))
            except (ConnectError, DeadlineExceeded):
                await self._dial(silo, address)

    async def _dial(self, silo: int, address: str) -> None:
        if silo in self._links:
            _, link = self._links.pop(silo)
            await link.close()
        card, party = self.hub.card, self.identities[silo]
        tls = Tls.of_silo(self.leaf(party), card.name, card.issuer_certificate)
        link = await connect(
            address, tls, self.limits, progress_seconds=self.progress_seconds
        )
        hello = (b"C" * 32, f.WIRE_VERSION, "0", 0, b"s" * 32, 0)
        await link.send(f.Hello(party.name, *hello))
        assert isinstance(await link.receive(), f.Phase)
        self._links[silo] = address, link

    async def _tell(self, **what: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the aggregator's process has ended"
        said: dict[str, Any] = json.loads(line)
        return said


async def _over(link: SiloLink, upload: m.MaskedUpload) -> None:
    """Until the acknowledgement is here; it may be before the upload knows of it."""

    async def hear() -> None:
        mine = False
        while not mine:
            frame = await link.receive()
            mine = isinstance(frame, m.UploadAck) and frame.ctx == upload.header.ctx

    uploading, hearing = map(asyncio.create_task, (link.upload(upload), hear()))
    try:
        await asyncio.wait({uploading, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if uploading.done() and not hearing.done():
            error = uploading.exception()
            # Any other: that attempt takes no upload any more, as the frame will say.
            if isinstance(error, Unreachable | DeadlineExceeded):
                raise error
        await hearing
    finally:
        for task in (uploading, hearing):
            task.cancel()
        await asyncio.gather(uploading, hearing, return_exceptions=True)
