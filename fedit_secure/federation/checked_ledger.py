"""A ledger whose changes of the cap are the operator's own: what everything here opens."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedit_secure.federation.caps import CapChange, cap_changes
from fedit_secure.privacy.events import KeyRotated
from fedit_secure.privacy.ledger import Ledger, LedgerCorrupt
from fedit_secure.secagg.keys import BadSignature, verify


def checked_ledger(
    population: str, entries: Iterable[bytes], known: Collection[bytes] = ()
) -> Ledger:
    """`Ledger.from_entries`, and `check_caps`; raises LedgerCorrupt as they do."""
    ledger = Ledger.from_entries(population, entries)
    check_caps(ledger, known)
    return ledger


def check_caps(ledger: Ledger, known: Collection[bytes] = ()) -> None:
    """Raises LedgerCorrupt, naming the entry, unless every change of the cap is signed.

    By the key that the ledger was opened with, or by one in `known` (32 bytes each), which
    the caller knows to be the silo's: an entry that rotates to another makes nobody the
    operator.
    """
    believed = {bytes.fromhex(ledger.opened.identity), *known}
    for change, signature, key in cap_changes(ledger.events, ledger.hashes):
        if key not in believed:
            what = "the cap is changed under a key that isn't known to be the silo's"
            raise LedgerCorrupt(ledger.population, change.entry, what)
        try:
            verify(key, change.digest(), signature)
        except BadSignature:
            what = "the change of the cap isn't signed by the silo's key"
            raise LedgerCorrupt(ledger.population, change.entry, what) from None


def next_change(ledger: Ledger, new: float, reason: str) -> CapChange:
    """The change of the cap that this ledger could take next."""
    number, old = ledger.sequence + 1, ledger.cap_epsilon
    return CapChange(ledger.population, number, ledger.hash, old, new, reason)


def signer_of(ledger: Ledger) -> bytes:
    """The public key, 32 bytes, that has to sign the ledger's next change of cap."""
    for event in reversed(ledger.events):
        if isinstance(event, KeyRotated):
            return bytes.fromhex(event.new)
    return bytes.fromhex(ledger.opened.identity)
