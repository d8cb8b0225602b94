"""A ledger with the signatures under its entries: made by its operator, and checked."""

from __future__ import annotations

from typing import TypeVar

from fedit_secure.federation.caps import CapChange, cap_changes
from fedit_secure.federation.ledger_signatures import check_entry, signed_digest
from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.privacy.events import KeyRotated
from fedit_secure.privacy.ledger import Ledger, LedgerCorrupt
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify

_S = TypeVar("_S", KeyRotated, Lost, Inherited)


def sign_event(key: SigningKey, ledger: Ledger, event: _S) -> _S:
    """The event under `key`'s signature, as the next entry of this ledger.

    The key is the silo's; for `KeyRotated` the old one. Whatever `signature` the event
    has is replaced.
    """
    covered = signed_digest(ledger.population, ledger.sequence, ledger.hash, event)
    return event.model_copy(update={"signature": key.sign(covered).hex()})


def next_change(ledger: Ledger, new: float, reason: str) -> CapChange:
    """The change of the cap that this ledger could take next."""
    number, old = ledger.sequence + 1, ledger.cap_epsilon
    return CapChange(ledger.population, number, ledger.hash, old, new, reason)


def check_signatures(ledger: Ledger) -> None:
    """Raises LedgerCorrupt, naming the entry, unless the silo's key of that time signed
    each entry that needs it: what its operator decided, and every change of the key.
    """
    population, identity = ledger.population, ledger.opened.identity
    places = zip(ledger.events, (bytes(32), *ledger.hashes), strict=False)
    for sequence, (event, before) in enumerate(places):
        if not isinstance(event, KeyRotated | Lost | Inherited):
            continue
        try:
            check_entry(bytes.fromhex(identity), population, sequence, before, event)
        except BadSignature:
            what = f"its {event.kind!r} isn't signed by the silo's key"
            raise LedgerCorrupt(population, sequence + 1, what) from None
        if isinstance(event, KeyRotated):
            identity = event.new
    # Every key that a rotation leads to is the silo's own by now.
    for change, signature, key in cap_changes(ledger.events, ledger.hashes):
        try:
            verify(key, change.digest(), signature)
        except BadSignature:
            what = "the change of the cap isn't signed by the silo's key"
            raise LedgerCorrupt(population, change.entry, what) from None


def identity_of(ledger: Ledger) -> str:
    """The silo's public key as the ledger has it now, in hex."""
    rotated = [e.new for e in ledger.events if isinstance(e, KeyRotated)]
    return rotated[-1] if rotated else ledger.opened.identity


def verified_ledger(population: str, entries: tuple[bytes, ...]) -> Ledger:
    """The ledger of these bytes: their chain, their order and these signatures.

    Raises LedgerCorrupt, naming the entry.
    """
    ledger = Ledger.from_entries(population, entries)
    check_signatures(ledger)
    return ledger
