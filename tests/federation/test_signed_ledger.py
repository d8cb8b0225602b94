"""Entries that are signed by themselves: by whom, over what, and where they stand."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fedit_secure.errors import StorageError
from fedit_secure.federation.ledger_signatures import LABELS, UNSIGNED, SignedEvent
from fedit_secure.federation.signed_ledger import (
    check_signatures,
    identity_of,
    sign_event,
    verified_ledger,
)
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.carried_over import CarriedCharge
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import digest, u64

KEYS = [SigningKey.from_seed(bytes([n]) * 32) for n in range(4)]
PUBLIC = [key.public.hex() for key in KEYS]


def opening(**change: object) -> pl.Opened:
    fields = {
        "silo": "north",
        "identity": PUBLIC[0],
        "population": "ward",
        "adjacency": "zero-out",
        "delta": 1e-6,
        "cap_epsilon": 8.0,
        "filter_order": 4.0,
        "fingerprints": "0b" * 32,
        "software": "x",
    }
    return pl.Opened.model_validate({**fields, **change})


def rotation(old: int, new: int) -> pl.KeyRotated:
    return pl.KeyRotated(old=PUBLIC[old], new=PUBLIC[new], signature=UNSIGNED)


def lost() -> pl.Lost:
    return pl.Lost(epsilon=8.0, reason="the disk burnt", signature=UNSIGNED)


def inherited() -> pl.Inherited:
    return pl.Inherited(
        source="ward 2",
        sequence=7,
        hash="0c" * 32,
        unit="record",
        filter_order=3.0,
        charges=(
            CarriedCharge(sample_rate=0.1, noise_multiplier=1.5, steps=8, times=4),
        ),
        lost=0.0,
        reason="one clinic",
        signature=UNSIGNED,
    )


MADE: dict[str, Callable[[], SignedEvent]] = {
    "key-rotated": lambda: rotation(0, 1),
    "lost": lost,
    "inherited": inherited,
}


def test_every_kind_that_has_a_signature_here_is_made_by_these_tests() -> None:
    assert {type(made()) for made in MADE.values()} == set(LABELS)
    assert len(set(LABELS.values())) == len(LABELS)


@pytest.mark.parametrize("kind", MADE)
def test_the_bytes_are_those_of_the_protocol_page(kind: str) -> None:
    """Computed again from docs/protocol.md: label, population, count, hash, entry."""
    ledger = pl.Ledger.open(opening())
    event = sign_event(KEYS[0], ledger, MADE[kind]())
    entry = json.loads(event.to_bytes())
    signature = bytes.fromhex(entry.pop("signature"))
    text = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    covered = digest(LABELS[type(event)], b"ward", u64(1), ledger.hash, text)
    assert signature == KEYS[0].sign(covered)
    check_signatures(ledger.append(event))


@pytest.mark.parametrize("kind", MADE)
def test_attack_signed_by_another_key(kind: str) -> None:
    ledger = pl.Ledger.open(opening())
    event = sign_event(KEYS[3], ledger, MADE[kind]())
    for forged in (event, MADE[kind]()):
        with pytest.raises(pl.LedgerCorrupt, match="isn't signed") as caught:
            check_signatures(ledger.append(forged))
        assert caught.value.entry == 2


@pytest.mark.parametrize("kind", MADE)
def test_attack_signature_of_another_place(kind: str) -> None:
    """The same event, signed for another position, ledger or history."""
    first = pl.Ledger.open(opening())
    version = pl.DataVersion(old="0b" * 32, new="0d" * 32)
    elsewhere = (
        first.append(version),
        pl.Ledger.open(opening(population="other")),
        pl.Ledger.open(opening(software="y")),
    )
    for other in elsewhere:
        moved = sign_event(KEYS[0], other, MADE[kind]())
        with pytest.raises(pl.LedgerCorrupt, match="isn't signed"):
            check_signatures(first.append(moved))


def test_attack_signature_of_another_kind() -> None:
    """Labels differ, so no signature under one kind of entry serves another."""
    ledger = pl.Ledger.open(opening())
    signature = sign_event(KEYS[0], ledger, lost()).signature
    stolen = inherited().model_copy(update={"signature": signature})
    with pytest.raises(pl.LedgerCorrupt, match="isn't signed"):
        check_signatures(ledger.append(stolen))


def test_the_old_key_signs_the_new_one_in() -> None:
    ledger = pl.Ledger.open(opening())
    assert identity_of(ledger) == PUBLIC[0]
    for old, new in ((0, 1), (1, 2)):
        ledger = ledger.append(sign_event(KEYS[old], ledger, rotation(old, new)))
        assert identity_of(ledger) == PUBLIC[new]
    again = verified_ledger("ward", ledger.entries)
    assert again == ledger
    # What follows is the new key's to sign, and no more the old one's.
    verified = ledger.append(sign_event(KEYS[2], ledger, lost()))
    check_signatures(verified)
    with pytest.raises(pl.LedgerCorrupt, match="'lost' isn't signed") as caught:
        check_signatures(ledger.append(sign_event(KEYS[0], ledger, lost())))
    assert caught.value.entry == 4


def test_attack_key_rotated_by_its_thief() -> None:
    """A new key that signs itself in, as who has the state folder alone could write."""
    ledger = pl.Ledger.open(opening())
    forged = sign_event(KEYS[1], ledger, rotation(0, 1))
    with pytest.raises(StorageError, match="'key-rotated' isn't signed"):
        verified_ledger("ward", ledger.append(forged).entries)
