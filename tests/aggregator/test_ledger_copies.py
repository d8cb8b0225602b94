"""The aggregator's copies of ledgers: what they take, and what they show to be a lie."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator.ledger_copies import LedgerCopies
from fedit_secure.errors import FaultySilo, FaultySiloOrAggregator, StorageError
from fedit_secure.federation.heads import SignedHead, check_head, sign_head
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.wire.frames import LedgerEntries

ENTRIES = (b'{"a":1}', b'{"b":2}', b'{"c":3}')


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    return found(tmp_path_factory.mktemp("ledgers"), 3)


def copies(federation: SmallFederation, folder: Path) -> LedgerCopies:
    return LedgerCopies(folder, federation.charter, federation.aggregator.signing)


def page(
    federation: SmallFederation, entries: tuple[bytes, ...], first: int = 0
) -> LedgerEntries:
    """s0's entries from `first` on, under its signed head over all of them."""
    chain = bytes(32)
    for entry in entries:
        chain = hashlib.sha256(chain + entry).digest()
    head = LedgerHead("s0", len(entries), chain)
    signature = sign_head(federation.silos[0].signing, "s0", head)
    return LedgerEntries(first, entries[first:], head, signature)


def test_a_whole_ledger_is_countersigned_and_survives_a_restart(
    federation: SmallFederation, tmp_path: Path
) -> None:
    receipt = copies(federation, tmp_path).extend("s0", page(federation, ENTRIES))
    assert receipt is not None
    check_head(
        "s0", federation.aggregator.signing.public, receipt.head, receipt.signature
    )
    again = copies(federation, tmp_path)
    assert again.head("s0") == receipt.head
    assert again.extend("s0", page(federation, ENTRIES)) == receipt


def test_pages_are_receipted_once_all_are_there(
    federation: SmallFederation, tmp_path: Path
) -> None:
    held = copies(federation, tmp_path)
    whole = page(federation, ENTRIES)
    assert held.extend("s0", replace(whole, entries=ENTRIES[:1])) is None
    assert held.extend("s0", replace(whole, first=1, entries=ENTRIES[1:])) is not None


def test_a_fork_names_the_silo(federation: SmallFederation, tmp_path: Path) -> None:
    held = copies(federation, tmp_path)
    held.extend("s0", page(federation, ENTRIES))
    forked = (ENTRIES[0], b'{"b":9}', ENTRIES[2])
    with pytest.raises(FaultySilo, match="forked") as fault:
        held.extend("s0", page(federation, forked))
    assert fault.value.suspect == "s0"


def test_a_rollback_names_the_silo(federation: SmallFederation, tmp_path: Path) -> None:
    held = copies(federation, tmp_path)
    held.extend("s0", page(federation, ENTRIES))
    with pytest.raises(FaultySilo, match="went back"):
        held.extend("s0", page(federation, ENTRIES[:2]))


def test_a_gap_is_refused(federation: SmallFederation, tmp_path: Path) -> None:
    with pytest.raises(FaultySilo, match="leaves entries out"):
        copies(federation, tmp_path).extend("s0", page(federation, ENTRIES, first=1))


def test_a_head_that_the_entries_miss_is_refused(
    federation: SmallFederation, tmp_path: Path
) -> None:
    head = LedgerHead("s0", 3, bytes(32))
    lie = LedgerEntries(
        0, ENTRIES, head, sign_head(federation.silos[0].signing, "s0", head)
    )
    with pytest.raises(FaultySilo, match="misses its own head"):
        copies(federation, tmp_path).extend("s0", lie)


def test_another_silos_signature_proves_nothing(
    federation: SmallFederation, tmp_path: Path
) -> None:
    whole = page(federation, ENTRIES)
    forged = sign_head(federation.silos[1].signing, "s0", whole.head)
    with pytest.raises(FaultySiloOrAggregator, match="wrong signature"):
        copies(federation, tmp_path).extend("s0", replace(whole, signature=forged))


def test_a_torn_append_is_sent_again(
    federation: SmallFederation, tmp_path: Path
) -> None:
    held = copies(federation, tmp_path)
    held.extend("s0", page(federation, ENTRIES))
    path = tmp_path / "s0.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    again = copies(federation, tmp_path)
    assert again.sequence("s0") == 2
    assert again.extend("s0", page(federation, ENTRIES)) is not None
    assert path.read_bytes() == b"".join(e + b"\n" for e in ENTRIES)


# ------------------------------------------------------------------------- signed heads


def test_the_head_that_both_signed_is_on_the_disk_before_the_receipt(
    federation: SmallFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, whole = copies(federation, tmp_path), page(federation, ENTRIES)

    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("fedit_secure.aggregator.ledger_copies.write_durably", refuse)
        with pytest.raises(StorageError, match="full"):
            held.extend("s0", whole)
    receipt = held.extend("s0", whole)
    assert receipt is not None
    signed = SignedHead.load(tmp_path / "s0.head")
    assert signed.head == receipt.head == whole.head
    assert bytes.fromhex(signed.signature) == whole.signature
    assert signed.countersignature == receipt.signature.hex()


def test_a_page_of_many_leaves_no_head_yet(
    federation: SmallFederation, tmp_path: Path
) -> None:
    held, whole = copies(federation, tmp_path), page(federation, ENTRIES)
    held.extend("s0", replace(whole, entries=ENTRIES[:1]))
    assert not (tmp_path / "s0.head").exists()


def test_a_copy_that_was_cut_doesnt_let_its_silo_go_back(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """The head outlives the entries: both have signed it."""
    copies(federation, tmp_path).extend("s0", page(federation, ENTRIES))
    (tmp_path / "s0.jsonl").write_bytes(ENTRIES[0] + b"\n")
    again = copies(federation, tmp_path)
    with pytest.raises(FaultySilo, match="went back"):
        again.extend("s0", page(federation, ENTRIES[:2]))
    forked = (ENTRIES[0], b'{"b":9}', ENTRIES[2], b'{"d":4}')
    with pytest.raises(FaultySilo, match="forked"):
        again.extend("s0", page(federation, forked))
    assert again.sequence("s0") == 1
    assert again.extend("s0", page(federation, ENTRIES)) is not None


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("s0.jsonl", b"\n".join((b'{"a":9}', *ENTRIES[1:])) + b"\n", "isn't the one"),
        ("s0.head", b"{", "is damaged"),
    ],
)
def test_what_this_disk_did_to_a_copy_isnt_the_silos_fault(
    federation: SmallFederation, tmp_path: Path, name: str, data: bytes, match: str
) -> None:
    copies(federation, tmp_path).extend("s0", page(federation, ENTRIES))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StorageError, match=match):
        copies(federation, tmp_path)


def test_an_entry_is_a_line_of_its_own_whatever_is_in_it(
    federation: SmallFederation, tmp_path: Path
) -> None:
    """A line's end is one byte: no other splits an entry when the copy is read again."""
    odd = (b'{"a":\r1}', b'{"b":\x0b2\x1c}')
    held = copies(federation, tmp_path)
    receipt = held.extend("s0", page(federation, odd))
    assert receipt is not None
    assert copies(federation, tmp_path).head("s0") == receipt.head
    for bad in (b"", b"{}\n"):
        with pytest.raises(FaultySilo, match="isn't one line"):
            held.extend("s0", page(federation, (*odd, bad)))
