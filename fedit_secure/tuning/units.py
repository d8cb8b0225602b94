"""Privacy units: which records share one coin, one clip and one guarantee. No torch.

Unit "record": each record by itself. Unit "person": all records that share an
identifier; a record without one is a person of its own. A person takes part with at
most k records, which are summed and clipped as one. Which k they are must depend on
that person alone: were it drawn over the whole data set, somebody else's records could
change what is summed for this person, and two units would move where one may.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

import numpy as np

from fedit_secure.errors import ConfigError
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.plan import DpPlan, Unit
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.job import ColumnMap
from fedit_secure.tuning.records import Record, record_bytes


def make_units(
    records: Sequence[Record], unit: Unit, most_records: int | None, key: bytes
) -> tuple[Slots, ...]:
    """The records of every unit, as ascending indexes; unit i has coin i.

    A person with more than `most_records` takes part with those of the smallest
    HMAC-SHA256(key, record); exact duplicates in the order of the file, which changes
    nothing, since they are equal. So neither the order of the file nor anybody else's
    records change which contents a person takes part with. The key may be public (the
    charter's digest is): the choice is a function of the person's own records, and any
    such function keeps the guarantee, even one that an attacker knows or has chosen.
    The hash only keeps it from favouring the first or the longest records.

    Args:
        records: all of the silo's records.
        unit: "record" or "person".
        most_records: k, at least 1, for "person"; None for "record".
        key: bytes; the same in every round of a run.

    Returns:
        Arrays of int64, shape (records of the unit,): one a record, or one a person in
        order of first appearance.

    Raises:
        ValueError: `most_records` doesn't go with the unit.
    """
    if unit == "record":
        if most_records is not None:
            raise ValueError("records have no most_records")
        return tuple(np.array([i], np.int64) for i in range(len(records)))
    if most_records is None or most_records < 1:
        raise ValueError(f"most_records is {most_records}, but must be at least 1")
    return tuple(
        np.array(_chosen(records, own, most_records, key), np.int64)
        for own in persons_of(records)
    )


def planned_units(
    records: Sequence[Record], plan: DpPlan, key: bytes
) -> tuple[Slots, ...] | None:
    """`make_units` of a plan, as a round takes them: None where each record is a unit."""
    if plan.unit == "record":
        return None
    return make_units(records, plan.unit, plan.records_per_person, key)


def persons_of(records: Sequence[Record]) -> list[list[int]]:
    """All record indexes of each person, ascending, in order of first appearance."""
    known: dict[str, list[int]] = {}
    persons: list[list[int]] = []
    for index, record in enumerate(records):
        if record.person is None:
            persons.append([index])
            continue
        own = known.get(record.person)
        if own is None:
            own = known[record.person] = []
            persons.append(own)
        own.append(index)
    return persons


def count_units(records: Sequence[Record], unit: Unit) -> int:
    """How many units the records are."""
    return len(records) if unit == "record" else len(persons_of(records))


def held_out_units(records: Sequence[Record], unit: Unit) -> int:
    """How many of them are held out."""
    return count_units([record for record in records if record.held_out], unit)


def require_persons(columns: ColumnMap, unit: Unit) -> None:
    """Raises ConfigError for a charter per person on data that doesn't name persons.

    Each record would count as somebody else, and the person's epsilon be claimed for
    what protects single records.
    """
    if unit == "person" and columns.person is None:
        raise ConfigError(
            "the charter protects persons, and 'data.columns.person' doesn't say which "
            "column names the person that a record is about"
        )


def require_held_out(holds_out: bool, plan: EvaluationPlan | None) -> None:
    """Raises ConfigError where the charter evaluates a silo that holds nothing out."""
    if plan is not None and not holds_out:
        raise ConfigError(
            "the charter evaluates on this silo's held-out records, and 'data.held_out' "
            "doesn't say which they are"
        )


def _chosen(
    records: Sequence[Record], own: list[int], most: int, key: bytes
) -> list[int]:
    if len(own) <= most:
        return own
    # A stable sort: equal records stay in the order of the file.
    ranked = sorted(
        own, key=lambda i: hmac.digest(key, record_bytes(records[i]), "sha256")
    )
    return sorted(ranked[:most])
