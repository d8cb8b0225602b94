"""A silo's ledger after its disk was lost: from a copy, or with the whole cap charged.

A copy that the aggregator holds is enough. Nothing is sampled before the aggregator has
countersigned the charge, and it countersigns what it holds: so a charge that only the
lost disk knew paid for nothing. (An aggregator that hands out less than it signed is
found out by the silo's peers, who keep the heads that they saw.)

The fuses are lost too, and nobody has a copy of those: in which attempts this silo
masked, revealed or gave its word that it never would. So it takes no further part under
the charters that it may have acted under. Everything it signs names its charter, so that
nothing said under one counts under the next. docs/adr/0015 has the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedit_secure.errors import ConfigError, ProtocolError, StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.heads import check_head
from fedit_secure.federation.ledger_signatures import UNSIGNED
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import (
    identity_of,
    sign_event,
    verified_ledger,
)
from fedit_secure.privacy.ledger import Ledger, LedgerCorrupt, Lost
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.ledger_opening import (
    closed_charters,
    new_ledger,
    receipted,
    stored_ledger,
)
from fedit_secure.storage.journal import Journal


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head under the silo's signature and, where it is known, the aggregator's."""

    head: LedgerHead
    signature: bytes
    countersignature: bytes | None


@dataclass(frozen=True, slots=True)
class Restored:
    """The ledger as it is now, and how many of its entries were here before."""

    ledger: Ledger
    before: int


def restore(
    journal: Journal,
    charter: Charter,
    name: str,
    key: SigningKey,
    entries: Sequence[bytes],
    known: KnownHead | None = None,
) -> Restored:
    """Write a copy's entries into the journal, as far as they aren't there.

    Every charter in them, and this one, is closed for the silo by the same transaction.
    Nothing changes if the journal holds all of them already.

    Raises:
        ConfigError: the copy isn't a ledger of this silo's; it doesn't reach `known`, or
            the head that the journal has a receipt for; or it doesn't go on from what is
            here. Nothing is written then.
        StorageError: the journal can't be written, or what is in it isn't a ledger.
    """
    population = charter.row(name).population
    copy = _copy(population, name, key, entries)
    if known is not None:
        _require_signed(charter, name, key, known)
        _require_reached(copy, known.head, "the head beside it")
    if (head := receipted(journal, charter, name)) is not None:
        _require_reached(copy, head, "the aggregator's receipt that is here")
    here = journal.ledger(population)
    if here:
        local = Ledger.from_entries(population, here)
        head = LedgerHead(population, local.sequence, local.hash)
        _require_reached(copy, head, "the ledger that is here")
    if rest := copy.entries_after(len(here)):
        journal.commit(
            population=population,
            expected_sequence=len(here),
            entries=rest,
            records=closed_charters(copy, charter),
        )
    return Restored(copy, len(here))


def charge_full_cap(
    journal: Journal,
    charter: Charter,
    name: str,
    key: SigningKey,
    policy: Policy,
    fingerprints: bytes,
    reason: str,
) -> Restored:
    """Open the ledger, or go on with what is here of it, with its whole cap charged.

    For records whose ledger nobody has: what was spent on them is unknown, and was at
    most the cap. Closes the charters as `restore` does. `fingerprints`, 32 bytes,
    commits to the records as they are now.

    Raises:
        ConfigError: the cap was charged like this before, and nothing since; the ledger
            is under another key; or the reason isn't a line of at most 200 characters.
        LedgerBehind: the journal has a receipt for a longer ledger: restore that one.
        StorageError: the journal can't be written, or what is in it isn't a ledger.
    """
    before = stored_ledger(journal, charter, name)
    ledger = before or new_ledger(charter, name, key, policy, fingerprints)
    if isinstance(ledger.last, Lost):
        raise ConfigError(f"the whole cap of {ledger.population!r} is charged already")
    _require_own(ledger, name, key)
    cap = ledger.cap_epsilon
    try:
        lost = Lost(
            epsilon=None if cap == float("inf") else cap,
            reason=reason,
            signature=UNSIGNED,
        )
    except ValueError:
        raise ConfigError(
            "the reason is one line of 1 to 200 printable characters"
        ) from None
    after = ledger.append(sign_event(key, ledger, lost))
    known = 0 if before is None else before.sequence
    journal.commit(
        population=after.population,
        expected_sequence=known,
        entries=after.entries_after(known),
        records=closed_charters(after, charter),
    )
    return Restored(after, known)


def _copy(
    population: str, name: str, key: SigningKey, entries: Sequence[bytes]
) -> Ledger:
    try:
        copy = verified_ledger(population, tuple(entries))
    except LedgerCorrupt as wrong:
        raise ConfigError(f"this isn't a copy to restore: {wrong}") from wrong
    _require_own(copy, name, key)
    return copy


def _require_own(ledger: Ledger, name: str, key: SigningKey) -> None:
    if (ledger.opened.silo, identity_of(ledger)) != (name, key.public.hex()):
        raise ConfigError(
            f"this is a ledger of silo {ledger.opened.silo!r} under the key "
            f"{identity_of(ledger)[:16]}..., and the silo here is {name!r} under "
            f"{key.public.hex()[:16]}..."
        )


def _require_signed(
    charter: Charter, name: str, key: SigningKey, known: KnownHead
) -> None:
    try:
        check_head(name, key.public, known.head, known.signature)
        if known.countersignature is not None:
            hub = bytes.fromhex(charter.aggregator.identity)
            check_head(name, hub, known.head, known.countersignature)
    except ProtocolError:
        raise ConfigError(
            "the head beside the copy isn't signed by this silo and by the charter's "
            "aggregator"
        ) from None


def _require_reached(copy: Ledger, head: LedgerHead, which: str) -> None:
    if head.population != copy.population:
        raise ConfigError(f"{which} is of the population {head.population!r}")
    if head.sequence > copy.sequence:
        raise ConfigError(
            f"the copy ends after {copy.sequence} entries, and {which} has "
            f"{head.sequence}: the ledger would be shortened"
        )
    try:
        copy.require_head(head.sequence, head.hash)
    except StorageError:
        raise ConfigError(
            f"the copy is another history than {which}: they differ within the first "
            f"{head.sequence} entries"
        ) from None
