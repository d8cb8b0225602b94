"""The bundle of a silo by itself, and beside the aggregator's as a witness."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import small_federation
from audit.stories import LINK, STORIES
from small_federation import SmallFederation

from fedit_secure.audit.bundle import Bundle, Maker, SeenHeads, SignedHead
from fedit_secure.audit.evidence.export import Evidence, export_bundle
from fedit_secure.audit.evidence.run_evidence import run_evidence
from fedit_secure.audit.evidence.silo_evidence import silo_evidence
from fedit_secure.audit.verify import audit_bundle
from fedit_secure.errors import ConfigError
from fedit_secure.federation.claim import Claim, verify_claim
from fedit_secure.federation.heads import check_head
from fedit_secure.privacy.ledger import DataVersion, Ledger
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.claims import keep_claim
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.journal import Journal
from fedit_secure.wire.codec import encode
from fedit_secure.wire.frames import HeadReceipt


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "FaultyLink", LINK)


def evidence_of(federation: SmallFederation, journal: Journal) -> Evidence:
    """Of s0, as its operator exports it."""
    party, charter = federation.silos[0], federation.charter
    approval = federation.root / "s0.approval"
    approval.write_bytes(federation.approvals[0].to_bytes())
    ledger = Ledger.from_entries("s0", journal.ledger("s0"))
    home = federation.root / "s0"
    claim = keep_claim(home, charter, "s0", ledger, party.signing)
    return silo_evidence(
        journal,
        charter,
        "s0",
        party.signing,
        ledger=ledger,
        claim=claim,
        approval=approval,
        cards=[party.card],
    )


def export(federation: SmallFederation, path: Path) -> Evidence:
    with open_journal(federation.root / "s0") as journal:
        evidence = evidence_of(federation, journal)
    export_bundle(
        path,
        evidence.pieces,
        maker=Maker(role="silo", name="s0"),
        charter=federation.charter.digest(),
        key=federation.silos[0].signing,
    )
    return evidence


def read(bundle: Bundle, name: str) -> bytes:
    data = bundle.read(name)
    assert data is not None, name
    return data


@pytest.mark.parametrize("story", ["plain", "restarted"])
async def test_a_silo_shows_its_ledger_and_what_it_saw(
    tmp_path: Path, story: str
) -> None:
    federation, path = await STORIES[story](tmp_path), tmp_path / "s0.zip"
    assert export(federation, path).lacks == ()
    charter = federation.charter
    with Bundle(path) as bundle:
        entries = read(bundle, "ledgers/s0.jsonl").splitlines()
        with open_journal(federation.root / "s0") as journal:
            assert tuple(entries) == journal.ledger("s0")
        last = bytes(32)
        for entry in entries:
            last = hashlib.sha256(last + entry).digest()
        signed = SignedHead.from_bytes(read(bundle, "heads/s0.json"), "head")
        assert (signed.sequence, signed.hash) == (len(entries), last.hex())
        for key, signature in (
            (federation.silos[0].signing.public, signed.signature),
            (federation.aggregator.signing.public, signed.countersignature),
        ):
            check_head("s0", key, signed.head, bytes.fromhex(signature))
        claim = Claim.from_bytes(read(bundle, "claims/s0.claim"), "claim")
        verify_claim(charter, claim)
        assert claim.hash == signed.hash
        seen = SeenHeads.from_bytes(read(bundle, "seen/s0.json"), "seen")
        peers = {row.name for row in charter.roster} - {"s0"}
        assert {head.silo for head in seen.heads} - {"s0"} == peers


async def test_it_verifies_alone_and_as_a_witness(tmp_path: Path) -> None:
    federation = await STORIES["plain"](tmp_path)
    export(federation, tmp_path / "s0.zip")
    alone = audit_bundle(tmp_path / "s0.zip")
    assert alone.passed
    holds = {v.claim for v in alone.verdicts if v.result == "holds"}
    assert {"bundle", "charter", "ledgers", "plan", "caps", "epsilon"} <= holds
    evidence = run_evidence(federation.root / "run", federation.charter)
    export_bundle(
        tmp_path / "hub.zip",
        evidence.pieces,
        maker=Maker(role="aggregator", name="hub"),
        charter=federation.charter.digest(),
        key=federation.aggregator.signing,
    )
    both = audit_bundle(tmp_path / "hub.zip", witnesses=[tmp_path / "s0.zip"])
    assert both.passed
    assert both.silos[0].claimed == alone.silos[0].claimed


async def test_a_receipt_counts_for_exactly_the_head_that_is_exported(
    tmp_path: Path,
) -> None:
    """Neither for a ledger that went on since, nor from another aggregator."""
    federation = await STORIES["plain"](tmp_path)
    home = federation.root / "s0"
    with open_journal(home) as journal:
        ledger = Ledger.from_entries("s0", journal.ledger("s0"))
        head = LedgerHead("s0", ledger.sequence, ledger.hash)
        receipt = journal.receipt("s0")
        foreign = encode(HeadReceipt(head, bytes(64)))
        journal.commit(population="s0", receipt=foreign)
        assert len(evidence_of(federation, journal).lacks) == 1
        journal.commit(population="s0", receipt=receipt)
        assert evidence_of(federation, journal).lacks == ()
        longer = ledger.append(DataVersion(old="00" * 32, new="01" * 32))
        journal.commit(
            population="s0",
            expected_sequence=ledger.sequence,
            entries=longer.entries[-1:],
        )
        evidence = evidence_of(federation, journal)
    assert evidence.lacks == (
        "the aggregator's signature under the head of the ledger",
    )
    piece = next(p for p in evidence.pieces if p.name == "heads/s0.json")
    signed = SignedHead.from_bytes(b"".join(piece.chunks()), "head")
    assert signed.sequence == longer.sequence
    assert signed.countersignature is None


async def test_anothers_approval_is_refused(tmp_path: Path) -> None:
    federation = await STORIES["plain"](tmp_path)
    federation.approvals[0] = federation.approvals[1]
    with pytest.raises(ConfigError, match="it is that of silo 's1'"):
        export(federation, tmp_path / "s0.zip")
    assert not (tmp_path / "s0.zip").exists()
