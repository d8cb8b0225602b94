"""What a silo claims at the end of a run: from its ledger, once, wherever it was then."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import small_federation
from faults.crashing import CountingLink, Dies, Door, Point, charges, play
from small_federation import SmallFederation, found

from fedit_secure.federation.claim import Claim, verify_claim
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.privacy.mechanisms import PrivacyAccountingError
from fedit_secure.silo import claims as silo_claims
from fedit_secure.silo.claims import claim_path, keep_claim
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.wire import frames as f

NAMES = tuple(f"s{i}" for i in range(4))


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "FaultyLink", CountingLink)


def ledger_of(federation: SmallFederation, silo: str) -> Ledger:
    with open_journal(federation.root / silo) as journal:
        return Ledger.from_entries(silo, journal.ledger(silo))


def sent(federation: SmallFederation, silo: str) -> bytes | None:
    path = federation.root / "run/claims" / f"{silo}.claim"
    return path.read_bytes() if path.exists() else None


def assert_claimed(federation: SmallFederation, silo: str) -> Claim:
    """The aggregator has what the silo keeps: the cost of its whole ledger."""
    path = claim_path(federation.root / silo, federation.charter)
    assert path.read_bytes() == sent(federation, silo)
    claim, ledger = Claim.load(path), ledger_of(federation, silo)
    verify_claim(federation.charter, claim)
    assert claim.silo == silo
    assert (claim.sequence, claim.hash) == (ledger.sequence, ledger.hash.hex())
    assert json.loads(ledger.entries[-1])["kind"] in ("released", "aborted")
    assert claim.lifetime.published == ledger.spent().published
    plan = federation.charter.plan_for(silo)
    assert claim.run is not None
    assert claim.run.published == plan.epsilons().published
    return claim


async def test_every_silo_claims_its_cost_before_the_goodbye(tmp_path: Path) -> None:
    door = Door(found(tmp_path, 4, rounds=2))
    await play(door)
    for name in NAMES:
        assert_claimed(door.federation, name)
    ends = [frame for who, frame in door.heard if isinstance(frame, f.Claim)]
    assert len(ends) == 4


async def test_a_silo_that_was_away_claims_when_it_is_back(tmp_path: Path) -> None:
    """It missed the last certificate: it adopts the round, and claims."""
    federation = found(tmp_path, 4)
    door = Door(federation)
    await play(door, absent=("s2",))
    assert sent(federation, "s2") is None
    # The aggregator is started again, and so is the silo.
    late = Door(federation)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(federation.run_silo(federation.silos[2], late.dial))
        group.create_task(late.run())
    assert_claimed_without_charge(federation, "s2")


def assert_claimed_without_charge(federation: SmallFederation, silo: str) -> None:
    document = sent(federation, silo)
    assert document is not None
    claim = Claim.from_bytes(document, silo)
    assert charges(federation, silo) == 0
    assert claim.lifetime.published == 0.0


@pytest.mark.parametrize("where", ["at_send", "at_receive"])
async def test_a_silo_that_dies_at_its_claim_makes_the_same_again(
    tmp_path: Path, where: str
) -> None:
    door = Door(found(tmp_path, 4, phase_deadline_seconds=3.0))
    point = Point(f.Claim if where == "at_send" else f.RunEnded)
    await play(door, [Dies("s1", **{where: point})])
    for name in NAMES:
        assert_claimed(door.federation, name)


async def test_a_claim_that_cant_be_made_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = silo_claims.sign_claim

    def broken(charter, name, ledger, key):
        if name == "s1":
            raise PrivacyAccountingError("two accountants disagree")
        return real(charter, name, ledger, key)

    monkeypatch.setattr(silo_claims, "sign_claim", broken)
    door = Door(found(tmp_path, 4))
    await play(door)
    assert "can't be claimed: two accountants disagree" in caplog.text
    assert sent(door.federation, "s1") is None
    assert_claimed(door.federation, "s0")


async def test_a_kept_claim_is_made_anew_where_it_no_longer_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(tmp_path, 3)
    door = Door(federation)
    await play(door)
    ledger, home = ledger_of(federation, "s0"), federation.root / "s0"
    made = []
    real = silo_claims.sign_claim
    monkeypatch.setattr(
        silo_claims, "sign_claim", lambda *given: made.append(1) or real(*given)
    )
    given = (home, federation.charter, "s0")
    key = federation.silos[0].signing
    kept = keep_claim(*given, ledger, key)
    assert made == []
    shorter = Ledger.from_entries("s0", ledger.entries[:-1])
    assert keep_claim(*given, shorter, key).sequence == kept.sequence - 1
    claim_path(home, federation.charter).write_bytes(b"{")  # a damaged disk
    assert keep_claim(*given, ledger, key) == kept
    assert made == [1, 1]
