"""The aggregator's end of the uploads, in a process of its own: server, spool and sum.

It does with uploads what `fedit aggregator serve` does, and says how it goes. In, by
lines of JSON: first what to serve, then one wave of uploads after the other, each an
attempt of its own. Out: where it listens; for each wave what its headers must name,
which upload was whole and which was added, and the digest of the sum with its memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedit_secure.errors import ConnectError
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import protocol
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.params import Member, Roster
from fedit_secure.storage.spool import Spool, SpoolFile
from fedit_secure.wire import frames as f
from fedit_secure.wire.arenas import give_back_freed_memory
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import PeerLink
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.uploads import Uploads

KEY_SET = b"K" * 32
SAMPLE_SECONDS = 0.01


PAGE = os.sysconf("SC_PAGE_SIZE")


def anonymous() -> int:
    """Bytes that this process has in memory and no file on disk stands behind."""
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - often
        resident, shared = map(int, file.read().split()[1:3])
    return PAGE * (resident - shared)


def most_resident() -> int:
    """Bytes that this process has had in memory at most, mapped files included."""
    # Not ru_maxrss, which counts what the parent had when it started this process.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))


class Watch(threading.Thread):
    """Keeps the most anonymous memory seen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(SAMPLE_SECONDS)


def slow_disk(seconds: float) -> None:
    """From now on each write of a chunk takes so much longer."""
    write = SpoolFile.write

    def slowly(file: SpoolFile, offset: int, data: bytes | memoryview) -> None:
        time.sleep(seconds)
        write(file, offset, data)

    SpoolFile.write = slowly  # type: ignore[method-assign]


class Hub:
    """See the module."""

    def __init__(self, what: dict[str, Any]) -> None:
        seeds = [bytes.fromhex(seed) for seed in what["seeds"]]
        keys = [SigningKey.from_seed(seed) for seed in seeds]
        named = zip(what["roster"], keys[1:], strict=True)
        members = tuple(Member(name, key.public) for (name, _), key in named)
        self.key, self.roster = keys[0], Roster(members, keys[0].public)
        size = {
            "length": what["length"],
            "bound": 1.0,
            "ring_bits": 24,
            "allow_pair": True,
        }
        self.params = release_sizes(len(members), **size)
        self.limits = Limits.of(self.params)
        room = 2 * len(members) * self.limits.payload_bytes
        self.uploads = Uploads(Spool(Path(what["folder"]), room), self.limits)
        self.inbox: asyncio.Queue[f.Frame] = asyncio.Queue()
        self.links: dict[int, PeerLink] = {}
        self.acks: dict[int, m.UploadAck] = {}  # told again to a silo that is back
        self.watch = Watch()
        keys_of_tls = (what[part].encode() for part in ("key", "chain", "roots"))
        roster = [(name, issuer) for name, issuer in what["roster"]]
        at = ("127.0.0.1", 0, Tls(*keys_of_tls), roster)
        self.server = AggregatorServer(*at, self._take, self.uploads, {}, self.limits)

    async def _take(self, peer: PeerLink, hello: f.Hello) -> None:
        self.links[peer.silo] = peer
        await peer.send(f.Phase(1, "mask"))
        if peer.silo in self.acks:
            await peer.send(self.acks[peer.silo])
        while True:
            self.inbox.put_nowait(await peer.receive())  # and keep no reference
            say(whole=peer.silo, anon=self.watch.most)

    async def wave(self, attempt: int, silos: list[int]) -> None:
        """One attempt in which these silos are asked for their uploads."""
        session = s.Session(self.params, self.roster, b"C" * 32, 1, attempt, b"s" * 32)
        bound = session.bound(KEY_SET, tuple(silos))
        nothing = np.zeros(self.params.length, np.uint32)
        u1 = m.AdvertSet(session.ctx, ())
        state: s.AggregatorState = s.Masking(
            session, self.key, frozenset(silos), u1, bound, (), nothing
        )
        self.uploads.expect(session.ctx)
        self.watch.most = anonymous()
        say(
            ctx=session.ctx.hex(),
            key_set=bound.key_set.hex(),
            dealers_digest=bound.dealers_digest.hex(),
            anon=self.watch.most,
        )
        self.acks = {}
        for _ in silos:
            state = await self._add(state)
        peaks = {"anon": self.watch.most, "rss": most_resident()}
        self.uploads.expect(None)
        np.bitwise_and(nothing, (1 << 24) - 1, out=nothing)
        say(sum=hashlib.sha256(nothing.data).hexdigest(), **peaks)

    async def _add(self, state: s.AggregatorState) -> s.AggregatorState:
        upload = await self.inbox.get()
        assert isinstance(upload, m.MaskedUpload)
        silo = upload.header.silo
        step = asyncio.to_thread(protocol.aggregator_step, state, upload)
        state, (told, *_) = await step
        assert isinstance(told, m.Send)
        assert isinstance(told.message, m.UploadAck)
        self.acks[silo] = told.message
        say(added=silo)
        with contextlib.suppress(ConnectError):
            await self.links[silo].send(told.message)
        return state


def say(**what: object) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def serve(what: dict[str, Any]) -> None:
    """Wave after wave, until there is none."""
    if what["disk_seconds"]:
        slow_disk(what["disk_seconds"])
    hub = Hub(what)
    port = await hub.server.start()
    hub.watch.start()
    say(address=f"127.0.0.1:{port}", bytes=hub.limits.payload_bytes)
    attempt = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        attempt += 1
        await hub.wave(attempt, json.loads(line)["silos"])
    await hub.server.stop(0.2)


if __name__ == "__main__":
    give_back_freed_memory()
    asyncio.run(serve(json.loads(sys.stdin.readline())))
