"""Signatures under single entries of a privacy ledger: what its operator decided.

Each covers its own label, then where the entry stands (the population, how many entries
come before it, the chain's hash after those), then the entry without its `signature`. So
none can be moved to another place, another ledger or another history.

Whoever verifies needs this file and the entries alone, and not the code that writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.privacy.events import Event, KeyRotated, Opened
from fedit_secure.privacy.ledger import Ledger, LedgerCorrupt
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify
from fedit_secure.secagg.transcript import digest, u64

SignedEvent = KeyRotated | Lost | Inherited

LABELS: Final[Mapping[type[Event], str]] = {
    KeyRotated: "fedit/rotate/v1",
    Lost: "fedit/lost/v1",
    Inherited: "fedit/inherit/v1",
}
"""Of the kinds whose signature is checked here."""

UNSIGNED: Final = "00" * 64
"""What stands in an entry's `signature` until it is signed."""

_S = TypeVar("_S", KeyRotated, Lost, Inherited)


def signed_digest(
    population: str, sequence: int, hash: bytes, event: SignedEvent
) -> bytes:
    """The 32 bytes that are signed: `event` comes after `sequence` entries of the
    population's ledger, and `hash` is the chain's after them.
    """
    place = (population.encode(), u64(sequence), hash)
    return digest(LABELS[type(event)], *place, event.unsigned_bytes())


def sign_event(key: SigningKey, ledger: Ledger, event: _S) -> _S:
    """The event under `key`'s signature, as the next entry of this ledger.

    The key is the silo's; for `KeyRotated` the old one. Whatever `signature` the event
    has is replaced.
    """
    covered = signed_digest(ledger.population, ledger.sequence, ledger.hash, event)
    return event.model_copy(update={"signature": key.sign(covered).hex()})


def check_signatures(ledger: Ledger) -> None:
    """Raises LedgerCorrupt, naming the entry, unless the silo's key of that time signed
    each of them.
    """
    identity = ledger.opened.identity
    places = zip(ledger.events, (bytes(32), *ledger.hashes), strict=False)
    for sequence, (event, before) in enumerate(places):
        if isinstance(event, Opened):
            identity = event.identity
        if not isinstance(event, KeyRotated | Lost | Inherited):
            continue
        covered = signed_digest(ledger.population, sequence, before, event)
        try:
            verify(bytes.fromhex(identity), covered, bytes.fromhex(event.signature))
        except BadSignature:
            raise LedgerCorrupt(
                ledger.population,
                sequence + 1,
                f"its {event.kind!r} isn't signed by the silo's key",
            ) from None
        if isinstance(event, KeyRotated):
            identity = event.new


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
