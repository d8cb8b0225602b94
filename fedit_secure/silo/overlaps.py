"""Populations that share records or persons: what one was charged, the other bears.

A ledger counts what was done with its own population. A record that is in two of them
bears the charges of both, and neither ledger alone would say so. So before a population
is charged, it must have inherited what every other one in this journal with which it
shares a record or a person has been charged. That holds both ways, at any time: whichever
was charged since has to be inherited again.

Every journal has one writer, so what is checked when the daemon starts holds while it
runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.ledger_signatures import UNSIGNED
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import sign_event, verified_ledger
from fedit_secure.privacy.carried_over import MAX_CHARGES, CarriedCharge
from fedit_secure.privacy.ledger import DataVersion, Inherited, Ledger
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.fingerprints import Prints
from fedit_secure.silo.ledger_opening import new_ledger, stored_ledger
from fedit_secure.storage.journal import Journal


@dataclass(frozen=True, slots=True)
class Overlap:
    """Another population's ledger, and what it shares. `known`: whether all of its prints
    are here, under today's key; else it counts as shared, whatever the numbers say.
    """

    source: Ledger
    records: int
    persons: int
    known: bool

    def __str__(self) -> str:
        name = self.source.population
        if not self.known:
            return f"{name!r} (its prints aren't all here: nobody knows what it shares)"
        return f"{name!r} ({self.records} records and {self.persons} persons)"


def owed(
    journal: Journal, population: str, ledger: Ledger | None, prints: Prints
) -> tuple[Overlap, ...]:
    """The populations whose charges this one shares and hasn't inherited, by name."""
    return tuple(
        overlap
        for overlap in _overlaps(journal, population, prints)
        if not _inherited(ledger, population, overlap.source)
    )


def require_inherited(
    journal: Journal, population: str, ledger: Ledger | None, prints: Prints
) -> None:
    """Raises PolicyRefusal if records or persons bear charges that this ledger lacks."""
    if missing := owed(journal, population, ledger, prints):
        raise PolicyRefusal(
            f"the population {population!r} shares records or persons with "
            f"{', '.join(map(str, missing))}, whose charges its ledger doesn't count; "
            "their operator takes them over with `fedit budget inherit`"
        )


def inherit(
    journal: Journal,
    charter: Charter,
    name: str,
    key: SigningKey,
    policy: Policy,
    fingerprints: bytes,
    prints: Prints,
    reason: str,
) -> Ledger:
    """Take over what is owed, under the operator's key: opens the ledger if it is new.

    Returns the ledger as it is then on the disk. `fingerprints`, 32 bytes, commits to
    the records as they are now, and `prints` are theirs.

    Raises:
        ConfigError: nothing is owed, or the reason isn't a line.
        PolicyRefusal: the other ledger is per another unit: what was charged per record
            can't be told as a person's, nor the other way round.
        StorageError, LedgerBehind: as `stored_ledger`.
    """
    population = charter.row(name).population
    before = stored_ledger(journal, charter, name)
    missing = owed(journal, population, before, prints)
    if not missing:
        raise ConfigError(
            f"the ledger of {population!r} counts every charge of its records already"
        )
    ledger = before or new_ledger(charter, name, key, policy, fingerprints)
    if ledger.fingerprints != fingerprints.hex():
        version = DataVersion(old=ledger.fingerprints, new=fingerprints.hex())
        ledger = ledger.append(version)
    for overlap in missing:
        entry = inheritance(overlap.source, population, reason)
        if entry.unit != ledger.opened.unit:
            raise PolicyRefusal(
                f"the ledger of {entry.source!r} is per {entry.unit}, and that of "
                f"{population!r} per {ledger.opened.unit}: what was charged to the one "
                "can't be told as the other's"
            )
        ledger = ledger.append(sign_event(key, ledger, entry))
    known = 0 if before is None else before.sequence
    journal.commit(
        population=population,
        expected_sequence=known,
        entries=ledger.entries_after(known),
        notes=prints_note(journal, ledger, before, prints),
    )
    return ledger


def inheritance(source: Ledger, heir: str, reason: str = "-") -> Inherited:
    """What the population `heir` takes over from another ledger, still unsigned.

    All that the other one counts, its first charter's plan whole, but for what it had
    from the heir itself. Raises ConfigError for a reason that isn't a line.
    """
    charges, found = source.charges(), Counter[tuple[float, float, int]]()
    for number, own in enumerate(charges.own):
        times = own.times if number else own.planned
        found[own.sample_rate, own.noise_multiplier, own.steps] += times
        if own.evaluation is not None:
            found[1.0, own.evaluation, 1] += times
    lost = charges.lost
    for other in charges.inherited:
        if other.source != heir:
            found.update(other.mechanisms())
            lost += float("inf") if other.lost is None else other.lost
    if len(found) > MAX_CHARGES:
        raise ConfigError(
            f"the ledger of {source.population!r} has {len(found)} kinds of charges, and "
            f"{MAX_CHARGES} fit an entry"
        )
    try:
        return Inherited(
            source=source.population,
            sequence=source.sequence,
            hash=source.hash.hex(),
            unit=source.opened.unit,
            filter_order=source.opened.filter_order,
            charges=tuple(
                CarriedCharge(
                    sample_rate=rate, noise_multiplier=noise, steps=steps, times=times
                )
                for (rate, noise, steps), times in sorted(found.items())
            ),
            lost=None if lost == float("inf") else lost,
            reason=reason,
            signature=UNSIGNED,
        )
    except ValueError:
        raise ConfigError(
            "the reason is one line of 1 to 200 printable characters"
        ) from None


def prints_note(
    journal: Journal, ledger: Ledger, before: Ledger | None, prints: Prints
) -> dict[str, bytes]:
    """What the journal has to note of a population's prints; empty if it has it all.

    `ledger` is as these records leave it, `before` as they found it: one that had others,
    of which nothing is noted, never has all its prints.
    """
    key = _key(ledger.population)
    noted = journal.note(key)
    if noted is None and before is not None:
        versions = any(isinstance(event, DataVersion) for event in ledger.events)
        prints = replace(prints, whole=not versions)
    earlier = None if noted is None else Prints.from_bytes(noted)
    data = prints.with_earlier(earlier).to_bytes()
    return {} if data == noted else {key: data}


def _overlaps(journal: Journal, population: str, prints: Prints) -> Iterator[Overlap]:
    for other in journal.populations():
        if other == population:
            continue
        noted = journal.note(_key(other))
        theirs = None if noted is None else Prints.from_bytes(noted)
        known = theirs is not None and theirs.whole and theirs.key == prints.key
        records = persons = 0
        if theirs is not None:
            records = len(prints.records & theirs.records)
            persons = len(prints.persons & theirs.persons)
        if records or persons or not known:
            ledger = verified_ledger(other, journal.ledger(other))
            yield Overlap(ledger, records, persons, known)


def _inherited(ledger: Ledger | None, heir: str, source: Ledger) -> bool:
    asked = inheritance(source, heir)
    if not asked.charges and asked.lost == 0:
        return True  # nothing was charged there
    if ledger is None:
        return False
    taken = {i.source: i for i in ledger.charges().inherited}.get(source.population)
    return taken is not None and taken.covers(asked)


def _key(population: str) -> str:
    return f"prints/{population}"
