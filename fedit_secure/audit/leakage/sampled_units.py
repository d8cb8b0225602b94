"""Which records are tried: whole units, drawn once by a public seed. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedit_secure.errors import ConfigError
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.units import make_units

Located = tuple[str, Record]
"""Where a record is in its file ("line 3"), and the record."""


@dataclass(frozen=True, slots=True)
class SampledUnits:
    """Some of a file's units, each with its records.

    Attributes:
        units: records of each unit: one, or those of a person that tuning takes.
        of: units that there were to draw from.
        left_out: records that are in the other file too, or whose person is.
    """

    units: tuple[tuple[Located, ...], ...]
    of: int
    left_out: int

    @property
    def records(self) -> list[Located]:
        """All records, unit by unit."""
        return [located for unit in self.units for located in unit]


def sample_members(
    own: Sequence[Located],
    held_out: Sequence[Located],
    plan: DpPlan,
    key: bytes,
    *,
    most: int,
    seed: int,
) -> SampledUnits:
    """Draw from the silo's records those that tuning took part with.

    A record whose text is held out as well is left out on both sides: it is neither a
    member nor not, and were it left out on one side only, the other would keep more of
    what everybody says.

    Args:
        own: the silo's records.
        held_out: the held-out ones, none if there are none.
        plan: says what a unit is, and how many records of a person take part.
        key: chooses them, as in tuning (`units.make_units`).
        most: records in all; the first unit is taken whatever it has.
        seed: of the draw.
    """
    shared = {_content(record) for _, record in held_out}
    return _sample(own, plan, key, shared, frozenset(), most, seed)


def sample_held_out(
    held_out: Sequence[Located],
    own: Sequence[Located],
    plan: DpPlan,
    key: bytes,
    *,
    most: int,
    seed: int,
) -> SampledUnits:
    """Draw from the held-out records, in the same way. Arguments as `sample_members`.

    Where a unit is a person, records of a person whom the silo's records name are left
    out: that person was tuned on.

    Raises:
        ConfigError: nothing is left.
    """
    shared = {_content(record) for _, record in own}
    persons: frozenset[str] = frozenset()
    if plan.unit == "person":
        persons = frozenset(r.person for _, r in own if r.person is not None)
    sample = _sample(held_out, plan, key, shared, persons, most, seed)
    if not sample.units:
        whose = " or of a person in it" if persons else ""
        raise ConfigError(
            f"every held-out record is one of the silo's own data too{whose}, so nothing "
            "was held out"
        )
    return sample


def occurrences(own: Sequence[Located]) -> Counter[tuple[str, str, str]]:
    """How often each record's text occurs in the silo's data."""
    return Counter(_content(record) for _, record in own)


def times(record: Record, counted: Counter[tuple[str, str, str]]) -> int:
    """How often this record's text was counted."""
    return counted[_content(record)]


def _sample(
    located: Sequence[Located],
    plan: DpPlan,
    key: bytes,
    shared: set[tuple[str, str, str]],
    persons: frozenset[str],
    most: int,
    seed: int,
) -> SampledUnits:
    records = [record for _, record in located]
    units, left_out = [], 0
    # Before anything is left out: which records a person takes part with depends on all.
    for slots in make_units(records, plan.unit, plan.records_per_person, key):
        kept = [
            i for i in slots.tolist() if not _is_shared(records[i], shared, persons)
        ]
        left_out += len(slots) - len(kept)
        if kept:
            units.append(tuple(located[i] for i in kept))
    chosen: list[int] = []
    room = most
    for index in np.random.default_rng(seed).permutation(len(units)).tolist():
        room -= len(units[index])
        if room < 0 and chosen:
            break
        chosen.append(index)
    return SampledUnits(
        tuple(units[index] for index in sorted(chosen)), len(units), left_out
    )


def _is_shared(
    record: Record, shared: set[tuple[str, str, str]], persons: frozenset[str]
) -> bool:
    return record.person in persons or _content(record) in shared


def _content(record: Record) -> tuple[str, str, str]:
    return record.instruction, record.input, record.response
