"""A server process that adds uploads as the aggregator does, and says what it took.

In (one JSON line): the server's TLS, its roster, how many uploads to await, of what
length. Out: where it listens and what headers must name; in the end its memory's peak.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.aggregator_steps import collect_upload
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.params import Member, Roster
from fedit_secure.storage.spool import Spool
from fedit_secure.wire import frames as f
from fedit_secure.wire.arenas import give_back_freed_memory
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import PeerLink
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.uploads import Uploads

KEY_SET = bytes(32)


def masking(names: list[str], length: int) -> s.Masking:
    """The phase in which every silo of the roster is asked for its upload."""
    keys = [SigningKey.from_seed(bytes([n]) * 32) for n in range(len(names) + 1)]
    members = (Member(n, k.public) for n, k in zip(names, keys[1:], strict=True))
    params = release_sizes(len(names), length=length, bound=1.0, ring_bits=24)
    roster = Roster(tuple(members), keys[0].public)
    session = s.Session(params, roster, bytes(32), 1, 1, bytes(32))
    bound = session.bound(KEY_SET, tuple(range(len(names))))
    u1 = m.AdvertSet(session.ctx, ())
    total = np.zeros(length, np.uint32)
    asked = frozenset(range(len(names)))
    return s.Masking(session, keys[0], asked, u1, bound, (), total)


def peak() -> int:
    """Bytes that this process has had in memory at most."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


async def serve(what: dict[str, Any]) -> None:
    roster = [(name, pem) for name, pem in what["roster"]]
    state = masking([name for name, _ in roster], what["length"])
    limits = Limits.of(state.session.params)
    inbox: asyncio.Queue[f.Frame] = asyncio.Queue()

    async def take(peer: PeerLink, hello: f.Hello) -> None:
        await peer.send(f.Phase(1, "mask"))
        while True:
            inbox.put_nowait(await peer.receive())

    room = 2 * len(roster) * limits.payload_bytes
    uploads = Uploads(Spool(Path(what["folder"]), room), limits)
    uploads.expect(state.session.ctx)
    tls = Tls(what["key"].encode(), what["chain"].encode(), what["roots"].encode())
    server = AggregatorServer("127.0.0.1", 0, tls, roster, take, uploads, {}, limits)
    port = await server.start()
    said = {
        "address": f"127.0.0.1:{port}",
        "ctx": state.session.ctx.hex(),
        "dealers_digest": state.bound.dealers_digest.hex(),
        "bytes": limits.payload_bytes,
    }
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    for _ in range(what["uploads"]):
        upload = await inbox.get()
        step = await asyncio.to_thread(collect_upload, state, upload)
        assert isinstance(step[0], s.Masking | s.Agreeing)
        state = step[0]
    sys.stdout.write(json.dumps({"peak": peak()}) + "\n")
    sys.stdout.flush()
    await server.stop(0.2)


if __name__ == "__main__":
    give_back_freed_memory()
    asyncio.run(serve(json.loads(sys.stdin.readline())))
