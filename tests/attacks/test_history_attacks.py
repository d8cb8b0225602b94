"""A silo that was away comes back to a malicious aggregator: whole daemons in memory.

Three of four silos run round 1 honestly. The fourth then meets an aggregator that tells it
another history, offers what is over, or hands it another state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from faults.crashing import charges
from small_federation import SmallFederation, found

from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.errors import (
    ConnectError,
    FaultyAggregator,
    MalformedMessage,
    QuorumLost,
)
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.wire import frames as f
from fedit_secure.wire.link import PeerLink

AWAY = "s3"


@dataclass
class Liar:
    """An aggregator by script: a welcome, then frames; what it hears is kept."""

    federation: SmallFederation
    welcome: f.Welcome
    frames: list[f.Frame] = field(default_factory=list)
    blob: Callable[[bytes], Any] = lambda address: None
    heard: list[f.Frame] = field(default_factory=list)

    def get(self, address: bytes) -> Any:
        return self.blob(address)

    async def on_connect(self, link: PeerLink, hello: f.Frame) -> None:
        self.heard.append(hello)
        with suppress(ConnectError):  # the silo has heard enough
            await link.send(self.welcome)
            for frame in self.frames:
                await link.send(frame)
            while not isinstance(self.heard[-1], f.Withdraw):
                self.heard.append(await link.receive())
            await link.send(f.CannotServe("the play is over", 8))
            await link.close()


@dataclass
class Past:
    """What really happened: the certificate of round 1, and the state after it."""

    federation: SmallFederation
    proof: m.RoundCertificate
    state: GridState
    blob: bytes
    approvals: tuple[bytes, ...]

    def key(self, silo: int):
        return self.federation.silos[silo].signing

    def welcome(self, proof: m.RoundCertificate | None, round: int = 1) -> f.Welcome:
        return f.Welcome(self.approvals, proof, round, self.state.digest())

    def serve(self, address: bytes) -> bytes | None:
        return self.blob if address == self.state.digest() else None

    def signed(self, silo: int, **changes: Any) -> m.Confirmation:
        """The true confirmation with changes, signed by this silo."""
        word = replace(self.proof.confirmations[0], silo=silo, **changes)
        return checks.sign(self.key(silo), word)


@pytest_asyncio.fixture
async def past(tmp_path: Path) -> Past:
    federation = found(
        tmp_path, 4, rounds=2, tune_deadline_seconds=1.0, phase_deadline_seconds=0.3
    )

    await one_round(federation)
    folder = RunFolder(tmp_path / "run", federation.charter, federation.initial)
    proof = folder.certificate(1)
    assert proof is not None
    state = folder.states.get(proof.confirmations[0].state_digest)
    approvals = tuple(a.to_bytes() for a in federation.approvals)
    blob = bytes(folder.states.find(state.digest()))
    return Past(federation, proof, state, blob, approvals)


async def one_round(federation: SmallFederation) -> None:
    """Silos 0 to 2 run; once round 1 is certified, everybody is switched off."""
    certified = asyncio.Event()

    def watch(event: Event) -> None:
        if event.phase == "certified":
            certified.set()

    hub = federation.new_aggregator(watch)
    here = federation.silos[:3]
    jobs = [asyncio.create_task(federation.run_silo(one, lambda: hub)) for one in here]
    jobs.append(asyncio.create_task(hub.run()))
    async with asyncio.timeout(30):
        await certified.wait()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


async def meet(past: Past, liar: Liar) -> BaseException:
    """What the silo that was away ends with."""
    party = past.federation.silos[3]
    async with asyncio.timeout(20):
        try:
            await past.federation.run_silo(party, lambda: liar)
        except Exception as error:  # noqa: BLE001 - the test says which
            return error
    raise AssertionError("it took that for the end of the run")


HISTORIES = {
    "too_few": lambda past: past.proof.confirmations[:2],
    "a_twin": lambda past: (*past.proof.confirmations[:2], past.proof.confirmations[0]),
    "another_state_by_an_accomplice": lambda past: (
        *past.proof.confirmations[:2], past.signed(0, state_digest=b"x" * 32)
    ),
    "another_state_for_all": lambda past: tuple(
        replace(word, state_digest=b"x" * 32) for word in past.proof.confirmations
    ),
    "another_sum_for_all": lambda past: tuple(
        replace(word, release_digest=b"x" * 32) for word in past.proof.confirmations
    ),
    "skipped_for_all": lambda past: tuple(
        replace(word, release_digest=b"") for word in past.proof.confirmations
    ),
    "signed_by_one_accomplice_for_three": lambda past: tuple(
        replace(past.signed(0), silo=i) for i in range(3)
    ),
    "another_charter": lambda past: tuple(
        past.signed(i, charter=b"Q" * 32) for i in range(3)
    ),
    "another_round": lambda past: tuple(past.signed(i, round=2) for i in range(3)),
    "nobody": lambda past: (),
}  # fmt: skip


@pytest.mark.parametrize("attack", HISTORIES)
async def test_forged_history(past: Past, attack: str) -> None:
    """Only t equal signatures for this round, of this charter, are a history."""
    forged = m.RoundCertificate(1, HISTORIES[attack](past))
    liar = Liar(past.federation, past.welcome(forged), blob=past.serve)
    error = await meet(past, liar)
    assert type(error) is FaultyAggregator, error
    assert error.suspect == "aggregator"
    assert "certificate" in str(error) or "signature on Confirmation" in str(error)
    assert_untouched(past)


async def test_forged_history_of_another_state(past: Past) -> None:
    """The certificate is true, and the state handed out for it isn't the one it names."""
    other = past.federation.initial.to_bytes()
    liar = Liar(past.federation, past.welcome(past.proof), blob=lambda address: other)
    error = await meet(past, liar)
    assert type(error) is MalformedMessage, error
    assert_untouched(past)


async def test_the_true_history_is_adopted(past: Past) -> None:
    """The same script without a lie: the silo is where the others are."""
    offers = [offer(past, 1, 1)]
    liar = Liar(past.federation, past.welcome(past.proof), offers, blob=past.serve)
    error = await meet(past, liar)
    assert type(error) is QuorumLost  # the script's last word
    with open_journal(past.federation.root / AWAY) as journal:
        books = past.federation.books(past.federation.silos[3], journal)
        assert (books.certified, books.state_digest) == (1, past.state.digest())


def offer(past: Past, round: int, attempt: int, **changes: Any) -> f.RoundOffer:
    charter, state = past.federation.charter.digest(), past.state.digest()
    made = replace(m.Offer(charter, round, attempt, state), **changes)
    signed = checks.sign(past.federation.aggregator.signing, made)
    return f.RoundOffer(signed, None, past.approvals)


OFFERS = {
    "replayed_round": (lambda past: offer(past, 1, 1), "a round that is over"),
    "round_after_the_last": (lambda past: offer(past, 9, 1), "a round after the last"),
    "crafted_model": (
        lambda past: offer(past, 2, 1, state_digest=b"x" * 32),
        "on a state that no quorum certified",
    ),
    "old_state": (
        lambda past: offer(past, 2, 1, state_digest=past.federation.initial.digest()),
        "on a state that no quorum certified",
    ),
    "old_charter": (
        lambda past: offer(past, 2, 1, charter=b"Q" * 32),
        "another charter",
    ),
}


@pytest.mark.parametrize("attack", OFFERS)
async def test_offer(past: Past, attack: str) -> None:
    """It tunes for nothing, is charged for nothing, and says why."""
    made, what = OFFERS[attack]
    liar = Liar(
        past.federation, past.welcome(past.proof), [made(past)], blob=past.serve
    )
    await meet(past, liar)
    left = liar.heard[-1]
    assert isinstance(left, f.Withdraw)
    assert left.reason.startswith("the aggregator is faulty: ")
    assert what in left.reason
    assert not any(isinstance(frame, f.Ready | m.Advert) for frame in liar.heard)
    assert_free(past)


async def test_offer_signed_by_nobody(past: Past) -> None:
    real = offer(past, 2, 1)
    forged = replace(real, offer=replace(real.offer, signature=bytes(64)))
    liar = Liar(past.federation, past.welcome(past.proof), [forged], blob=past.serve)
    await meet(past, liar)
    assert "signature on Offer" in liar.heard[-1].reason
    assert_free(past)


async def test_old_attempt(past: Past) -> None:
    """Invited to an attempt of the round that is over, with no update for it."""
    old = offer(past, 1, 1).offer
    liar = Liar(past.federation, past.welcome(past.proof), [old], blob=past.serve)
    await meet(past, liar)
    assert "a round that is over" in liar.heard[-1].reason
    assert not any(isinstance(frame, m.Advert) for frame in liar.heard)
    assert_free(past)


def assert_free(past: Past) -> None:
    assert charges(past.federation, AWAY) == 0
    assert not [key for key in past.federation.updates if key[0] == AWAY]


def assert_untouched(past: Past) -> None:
    """It believes what its charter says, and nothing more."""
    assert_free(past)
    with open_journal(past.federation.root / AWAY) as journal:
        books = past.federation.books(past.federation.silos[3], journal)
        assert books.certified == 0
        assert books.state_digest == past.federation.initial.digest()
