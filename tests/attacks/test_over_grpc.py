"""The same malicious aggregator over gRPC with mutual TLS, against whole silo daemons.

What it sends to one silo is changed on the way out and signed again with its own key; the
silo says what it found in its Withdraw, and the three others have their sum.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.crashing import assert_sum, charges, ends_of
from small_federation import LENGTH, SmallFederation, found

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.federation.identity import issue_leaf
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.silo.books import open_journal
from fedit_secure.silo.daemon import SiloDaemon
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
    federation: SmallFederation, do: Callable[[f.Frame], f.Frame]
) -> tuple[GridState, list[tuple[str, f.Frame]]]:
    """One round over loopback: the final state, and all that silos said in frames."""
    charter, now = federation.charter, datetime.now(UTC)
    limits = Limits.of(charter.secagg_params())
    room = 16 * limits.payload_bytes
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
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            silos = [group.create_task(silo(party)) for party in federation.silos]
            state = await aggregator.run()
    finally:
        await server.stop(0.2)
    assert all(task.result().digest() == state.digest() for task in silos)
    return state, heard


def flipped(u2: m.ShareSet) -> m.ShareSet:
    (dealer, sealed), *rest = u2.envelopes
    bad = (dealer, bytes([sealed[0] ^ 1]) + sealed[1:])
    return replace(u2, envelopes=(bad, *rest))


def swapped(u1: m.AdvertSet) -> m.AdvertSet:
    last = replace(u1.adverts[-1], mask_key=u1.adverts[-1].envelope_key)
    return replace(u1, adverts=(*u1.adverts[:-1], last))


def nudged(out: m.PublishedSum) -> m.PublishedSum:
    total = out.total.copy()
    total[0] += 1
    return replace(out, total=total)


ATTACKS: dict[str, tuple[type, Callable[[Any], Any], str]] = {
    "swapped_keys": (m.AdvertSet, swapped, "a wrong signature on Advert"),
    "small_cohort": (
        m.AdvertSet,
        lambda u1: replace(u1, adverts=u1.adverts[:2]),
        "U1 is below the minimum of 3 silos",
    ),
    "envelope_bit_flipped": (m.ShareSet, flipped, "an altered envelope"),
    "envelope_withheld": (
        m.ShareSet,
        lambda u2: replace(u2, envelopes=u2.envelopes[1:]),
        "it withheld or doubled an envelope",
    ),
    "lying_ack": (
        m.UploadAck,
        lambda ack: replace(ack, header_digest=b"x" * 32),
        "it acknowledged what was never sent",
    ),
    "acked_but_unlisted": (
        m.SurvivorSet,
        lambda u3: replace(u3, headers=u3.headers[1:]),
        "it left out an acknowledged upload",
    ),
    "missing_agreements": (
        m.AgreementSet,
        lambda quorum: replace(quorum, agreements=quorum.agreements[:2]),
        "its quorum has 2 of 3 signatures",
    ),
    "forged_sum": (m.PublishedSum, nudged, "the tag isn't that of this sum"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_over_grpc(tmp_path: Path, attack: str) -> None:
    kind, change, what = ATTACKS[attack]
    federation = found(tmp_path, 4)

    def do(frame: f.Frame) -> f.Frame:
        if type(frame) is not kind:
            return frame
        changed = change(frame)
        if not hasattr(changed, "signature"):
            return changed
        return checks.sign(federation.aggregator.signing, changed)

    state, heard = await release(federation, do)
    left = [frame.reason for name, frame in heard if isinstance(frame, f.Withdraw)]
    assert len(left) == 1
    assert what in left[0]
    faulty = (
        "silo 'any contributor' or the aggregator" if attack == "forged_sum" else ""
    )
    assert left[0].startswith(f"{faulty or 'the aggregator'} is faulty: ")
    said = [type(frame) for name, frame in heard if name == VICTIM]
    assert_silent_after(attack, said)
    # The others go on without the victim, or with the upload that it had sent.
    among = ends_of(federation)
    assert set(among) >= {"s1", "s2", "s3"}
    assert_sum(federation, state, among)
    assert [charges(federation, f"s{i}") for i in range(4)] == [1] * 4


def assert_silent_after(attack: str, said: list[type]) -> None:
    """Nothing of the step that was attacked, nor of a later one, left the victim."""
    steps = [m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal]
    first = {m.AdvertSet: 0, m.ShareSet: 1, m.UploadAck: 2, m.SurvivorSet: 2}
    never = steps[first.get(ATTACKS[attack][0], 3) :]
    if attack == "forged_sum":
        never = []
    assert not set(never) & set(said), said


async def test_the_same_without_an_attack(tmp_path: Path) -> None:
    federation = found(tmp_path, 4)
    state, heard = await release(federation, lambda frame: frame)
    assert ends_of(federation) == ("s0", "s1", "s2", "s3")
    assert_sum(federation, state, ends_of(federation))
    assert not [frame for _, frame in heard if isinstance(frame, f.Withdraw)]
