"""The claims that an aggregator keeps: its own silo's, on the ledger that is here."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator.claims import Claims
from fedit_secure.aggregator.ledger_copies import LedgerCopies
from fedit_secure.errors import ProtocolError
from fedit_secure.federation.claim import Claim, Stated
from fedit_secure.federation.heads import sign_head
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.wire.frames import LedgerEntries

ENTRIES = (b'{"a":1}', b'{"b":2}')
CHAIN = [bytes(32)]
for _entry in ENTRIES:
    CHAIN.append(hashlib.sha256(CHAIN[-1] + _entry).digest())
STATED = Stated(delta=1e-5, pld=0.5, prv=0.51, rdp=0.7, published=0.51)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    return found(tmp_path_factory.mktemp("claims"), 3)


def claim_of(federation: SmallFederation, signer: int = 0, **fields: Any) -> bytes:
    """Signed by that silo whatever it says."""
    given = {
        "silo": f"s{signer}",
        "population": f"s{signer}",
        "charter": federation.charter.digest().hex(),
        "unit": "record",
        "sequence": 2,
        "hash": CHAIN[2].hex(),
        "run": STATED,
        "lifetime": STATED,
        "signature": "00" * 64,
    }
    draft = Claim(**{**given, **fields})
    key = federation.silos[signer].signing
    signed = key.sign(draft.signed_digest()).hex()
    return draft.model_copy(update={"signature": signed}).to_bytes()


def page(federation: SmallFederation, count: int) -> LedgerEntries:
    head = LedgerHead("s0", count, CHAIN[count])
    signature = sign_head(federation.silos[0].signing, "s0", head)
    return LedgerEntries(0, ENTRIES[:count], head, signature)


@pytest.fixture
def copies(federation: SmallFederation, tmp_path: Path) -> LedgerCopies:
    """They hold both entries of s0's ledger."""
    key = federation.aggregator.signing
    held = LedgerCopies(tmp_path / "ledgers", federation.charter, key)
    held.extend("s0", page(federation, 2))
    return held


@pytest.fixture
def claims(federation: SmallFederation, copies: LedgerCopies, tmp_path: Path) -> Claims:
    return Claims(tmp_path / "claims", federation.charter, copies)


def test_the_last_claim_replaces_the_one_before(
    federation: SmallFederation, claims: Claims, tmp_path: Path
) -> None:
    first = claim_of(federation, sequence=1, hash=CHAIN[1].hex())
    last = claim_of(federation)
    for document in (first, last):
        claims.keep("s0", document)
        assert (tmp_path / "claims/s0.claim").read_bytes() == document


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"charter": "0a" * 32}, "under another charter"),
        ({"population": "others"}, "another population"),
        ({"hash": "0a" * 32}, "for another ledger"),
        ({"silo": "s1", "population": "s1"}, "isn't signed by its identity"),
        ({"silo": "stranger"}, "isn't in the roster"),
    ],
)
def test_what_isnt_about_this_run_is_refused(
    federation: SmallFederation,
    claims: Claims,
    tmp_path: Path,
    fields: dict[str, Any],
    match: str,
) -> None:
    with pytest.raises(ProtocolError, match=match) as refused:
        claims.keep("s0", claim_of(federation, **fields))
    assert "'s0'" in str(refused.value)
    assert list((tmp_path / "claims").iterdir()) == []


def test_nobody_claims_for_another_silo(
    federation: SmallFederation, claims: Claims, tmp_path: Path
) -> None:
    with pytest.raises(ProtocolError, match="'s0' sent the claim of silo 's1'"):
        claims.keep("s0", claim_of(federation, 1))
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b"[" * 9000])
def test_bytes_that_are_no_claim_are_refused(claims: Claims, damage: bytes) -> None:
    with pytest.raises(ProtocolError, match="'s0' sent a claim that isn't one"):
        claims.keep("s0", damage)


def test_an_altered_claim_is_refused(
    federation: SmallFederation, claims: Claims, tmp_path: Path
) -> None:
    altered = claim_of(federation).replace(b"0.51", b"0.41")
    with pytest.raises(ProtocolError, match="isn't signed by its identity"):
        claims.keep("s0", altered)
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_before_its_ledger_is_sent_again(
    federation: SmallFederation, copies: LedgerCopies, claims: Claims, tmp_path: Path
) -> None:
    """A link broke between the two: nobody is to blame."""
    early = claim_of(federation, sequence=3, hash="0a" * 32)
    claims.keep("s0", early)
    assert list((tmp_path / "claims").iterdir()) == []
    assert copies.lies_on("s0", 3, bytes(32)) is None
    (tmp_path / "ledgers/s0.jsonl").write_bytes(ENTRIES[0] + b"\n")  # a disk lost one
    key = federation.aggregator.signing
    cut = LedgerCopies(tmp_path / "ledgers", federation.charter, key)
    Claims(tmp_path / "claims", federation.charter, cut).keep(
        "s0", claim_of(federation)
    )
    assert list((tmp_path / "claims").iterdir()) == []


async def test_the_end_waits_for_those_who_are_there_and_no_longer(
    federation: SmallFederation, claims: Claims, caplog: pytest.LogCaptureFixture
) -> None:
    changed, here = asyncio.Event(), {"s0", "s1"}
    waiting = asyncio.create_task(claims.gather(lambda: here, changed, 60.0))
    await asyncio.sleep(0)
    claims.keep("s0", claim_of(federation))
    changed.set()
    await asyncio.sleep(0)
    assert not waiting.done()
    here.remove("s1")  # its link broke
    changed.set()
    async with asyncio.timeout(60):
        await waiting
    assert caplog.records == []
    await claims.gather(lambda: ["s0", "s2"], changed, 0.01)
    assert "silo 's2' hasn't said in time" in caplog.text


def test_what_is_on_the_disk_isnt_waited_for_again(
    federation: SmallFederation, copies: LedgerCopies, claims: Claims, tmp_path: Path
) -> None:
    claims.keep("s0", claim_of(federation))
    again = Claims(tmp_path / "claims", federation.charter, copies)
    asyncio.run(again.gather(lambda: ["s0"], asyncio.Event(), 60.0))
