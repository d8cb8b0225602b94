"""An audit of the build, entered in the ledger of a silo whose daemon is stopped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedit_secure.errors import PolicyRefusal, StorageError
from fedit_secure.privacy.ledger import AuditRun, Ledger
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.records import Record


def require_others_records(records: Sequence[Record], own: Iterable[Record]) -> None:
    """Refuse to take a population's own records for public ones.

    Two records are the same if they differ in spaces and capitals at most.

    Raises:
        PolicyRefusal: names the first record that is the silo's own, counted from 1.
    """
    known = {_content(record) for record in own}
    for number, record in enumerate(records, 1):
        if _content(record) in known:
            raise PolicyRefusal(
                f"record {number} of the audit's records is one of this silo's own: on "
                "those an audit is a charge, and takes a charter"
            )


def open_ledger(journal: Journal, population: str) -> Ledger:
    """The population's ledger.

    Raises:
        StorageError: it hasn't been opened by a first charter yet, or is corrupt.
    """
    entries = journal.ledger(population)
    if not entries:
        raise StorageError(
            f"{population!r} has no ledger yet to enter the audit in: its first charter "
            "opens it"
        )
    return Ledger.from_entries(population, entries)


def enter(journal: Journal, population: str, event: AuditRun) -> Ledger:
    """Append the event, durably; the ledger as it is then.

    The audit used none of the population's records, so nothing is charged.

    Raises:
        StorageError: as `open_ledger`, or the journal can't be written.
    """
    before = open_ledger(journal, population)
    after = before.append(event)
    journal.commit(
        population=population,
        expected_sequence=before.sequence,
        entries=after.entries[before.sequence :],
    )
    return after


def _content(record: Record) -> tuple[str, ...]:
    parts = (record.instruction, record.input, record.response)
    return tuple(" ".join(part.split()).casefold() for part in parts)
