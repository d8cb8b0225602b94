"""A silo that was away for rounds takes exactly the state that t silos certified."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_federation import LAYOUT, LENGTH, SmallFederation, found

from fedit_secure.aggregator.certified_end import certified_end
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.errors import ConfigError, FaultyAggregator, PolicyRefusal
from fedit_secure.federation.approval import approve
from fedit_secure.federation.update import from_float32
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.transcript import digest
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import decode, encode
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import Published, memory_pair

AWAY = "s3"


@pytest.fixture
async def past(tmp_path: Path) -> tuple[SmallFederation, Aggregator]:
    """Two rounds of three silos of four, and the aggregator of them."""
    federation = found(tmp_path, 4, rounds=2)
    hub = federation.new_aggregator()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for party in federation.silos[:3]:
            group.create_task(federation.run_silo(party, lambda: hub))
        await hub.run()
    return federation, hub


Welcomed = Callable[[f.Welcome], f.Welcome]


@dataclass
class Welcoming:
    """The aggregator, with another Welcome."""

    hub: Aggregator
    welcome: Welcomed

    def get(self, address: bytes) -> Any:
        return self.hub.get(address)

    async def on_connect(self, link: Any, hello: f.Hello) -> None:
        await self.hub.on_connect(_Link(link, self.welcome), hello)


@dataclass
class _Link:
    inner: Any
    welcome: Welcomed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def send(self, frame: f.Frame) -> None:
        given = self.welcome(frame) if isinstance(frame, f.Welcome) else frame
        await self.inner.send(given)


async def back(federation: SmallFederation, hub: Any) -> bytes:
    """The silo that was away is back: the digest of the state that it ends with."""
    party = next(silo for silo in federation.silos if silo.name == AWAY)
    async with asyncio.timeout(30):
        return (await federation.run_silo(party, lambda: hub)).digest()


def kept(federation: SmallFederation) -> tuple[int, bytes]:
    """The round and state that the silo's own books have certified."""
    party = next(silo for silo in federation.silos if silo.name == AWAY)
    with open_journal(federation.root / AWAY) as journal:
        books = federation.books(party, journal)
        return books.certified, books.state_digest


async def test_it_takes_the_certified_state(
    past: tuple[SmallFederation, Aggregator],
) -> None:
    federation, hub = past
    round, state = certified_end(federation.root / "run", federation.charter)
    assert round == 2
    assert await back(federation, hub) == state.digest()
    assert kept(federation) == (2, state.digest())
    where = federation.root / AWAY / "states" / f"{state.digest().hex()}.state"
    assert where.is_file()
    assert (AWAY, 1) not in federation.updates  # it paid for nothing


def short(proof: m.RoundCertificate, federation: SmallFederation) -> m.RoundCertificate:
    """One signature fewer than a quorum."""
    least = federation.charter.secagg_params().threshold
    return replace(proof, confirmations=proof.confirmations[: least - 1])


def twice(proof: m.RoundCertificate, federation: SmallFederation) -> m.RoundCertificate:
    """A quorum of signatures, two of which are one silo's."""
    said = short(proof, federation).confirmations
    return replace(proof, confirmations=(*said, said[0]))


def of_round_one(
    proof: m.RoundCertificate, federation: SmallFederation
) -> m.RoundCertificate:
    """The quorum of another round."""
    return replace(proof, round=proof.round - 1)


def another_state(
    proof: m.RoundCertificate, federation: SmallFederation
) -> m.RoundCertificate:
    """The quorum's signatures under a state that the aggregator would like better."""
    other = digest("fedit/test/v1", b"crafted")
    said = tuple(replace(word, state_digest=other) for word in proof.confirmations)
    return replace(proof, confirmations=said)


FORGED = (short, twice, of_round_one, another_state)


async def test_it_takes_no_other(past: tuple[SmallFederation, Aggregator]) -> None:
    federation, hub = past
    before = bytes.fromhex(federation.charter.adapter.initial_digest)
    for forged in FORGED:

        def welcome(frame: f.Welcome, forged: Any = forged) -> f.Welcome:
            assert frame.certificate is not None
            return replace(frame, certificate=forged(frame.certificate, federation))

        with pytest.raises(FaultyAggregator):
            await back(federation, Welcoming(hub, welcome))
        assert kept(federation) == (0, before)


async def test_no_epoch_starts_from_what_a_quorum_did_not_sign(
    past: tuple[SmallFederation, Aggregator],
) -> None:
    federation, _ = past
    path = federation.root / "run" / "rounds" / "002" / "certificate.frame"
    proof = decode(path.read_bytes(), Limits.of(federation.charter.secagg_params()))
    assert isinstance(proof, m.RoundCertificate)
    for forged in FORGED:
        path.write_bytes(encode(forged(proof, federation)))
        with pytest.raises(ConfigError, match=r"certificate\.frame (doesn't|isn't)"):
            certified_end(federation.root / "run", federation.charter)


async def test_no_epoch_starts_from_another_state_under_the_right_name(
    past: tuple[SmallFederation, Aggregator],
) -> None:
    federation, _ = past
    _, state = certified_end(federation.root / "run", federation.charter)
    path = federation.root / "run" / "states" / f"{state.digest().hex()}.state"
    path.write_bytes(from_float32(LAYOUT, np.ones(LENGTH, np.float32)).to_bytes())
    with pytest.raises(ConfigError, match="isn't the state that it is named after"):
        certified_end(federation.root / "run", federation.charter)
    other = federation.charter.model_copy(update={"run": "other"})
    with pytest.raises(ConfigError, match="another charter than the given"):
        certified_end(federation.root / "run", other)
    with pytest.raises(ConfigError, match="isn't an aggregator's run folder"):
        certified_end(federation.root, federation.charter)


async def test_before_the_first_certificate_it_is_the_charters_own(
    tmp_path: Path,
) -> None:
    federation = found(tmp_path, 3)
    federation.new_aggregator()
    round, state = certified_end(federation.root / "run", federation.charter)
    assert (round, state.digest()) == (0, federation.initial.digest())


async def test_a_silo_of_an_earlier_epoch_is_told_so_in_one_sentence(
    tmp_path: Path,
) -> None:
    federation = found(tmp_path, 3)
    first = federation.charter.digest()
    change = {"epoch": 2, "predecessor": first.hex(), "run": "next"}
    charter = federation.charter.model_copy(update=change)
    keys = [(silo.name, silo.signing) for silo in federation.silos]
    approvals = [approve(charter, *key) for key in keys]
    hub = replace(federation, charter=charter, approvals=approvals).new_aggregator()
    limits = Limits.of(charter.secagg_params())
    for other, goes_by in (
        (first, "epoch 1, which this one has followed"),
        (bytes(32), "another charter"),
    ):
        _, peer = memory_pair(0, "s0", Published(hub), limits)
        hello = f.Hello("s0", other, f.WIRE_VERSION, "1", 0, first, 0)
        with pytest.raises(PolicyRefusal) as caught:
            await hub.on_connect(peer, hello)
        assert str(caught.value) == (
            f"epoch 2 of 'small' is served here, and silo 's0' goes by {goes_by}: its "
            "operator has to approve this one first"
        )
