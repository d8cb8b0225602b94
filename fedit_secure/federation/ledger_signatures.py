"""Signatures under single entries of a privacy ledger: what its operator decided.

Each covers its own label, then where the entry stands (the population, how many entries
come before it, the chain's hash after those), then the entry without its `signature`. So
none can be moved to another place, another ledger or another history.

Whoever verifies needs this file and the schema of entries, and nothing of the code that
writes ledgers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.privacy.events import Event, KeyRotated
from fedit_secure.secagg.keys import verify
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


def signed_digest(
    population: str, sequence: int, hash: bytes, event: SignedEvent
) -> bytes:
    """The 32 bytes that are signed: `event` comes after `sequence` entries of the
    population's ledger, and `hash` is the chain's after them.
    """
    place = (population.encode(), u64(sequence), hash)
    return digest(LABELS[type(event)], *place, event.unsigned_bytes())


def check_entry(
    public: bytes, population: str, sequence: int, hash: bytes, event: SignedEvent
) -> None:
    """Raises BadSignature unless `public` signed this event in this place.

    It is the silo's key at that place: the opening's, or the one that it was rotated to
    last. For `KeyRotated` the old one.
    """
    covered = signed_digest(population, sequence, hash, event)
    verify(public, covered, bytes.fromhex(event.signature))
