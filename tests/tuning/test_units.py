"""Which records share a coin and a clip, and what may change that."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from fedit_secure.errors import ConfigError
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.tuning.job import ColumnMap
from fedit_secure.tuning.records import Record, record_bytes
from fedit_secure.tuning.units import count_units, make_units, require_persons

KEY = b"k" * 32


def record(number: int, person: str | None) -> Record:
    return Record(f"instruction {number}", "", f"answer {number}", person=person)


def records() -> list[Record]:
    """Five of p, three of q, two of nobody, mixed."""
    names = ["p", "q", None, "p", "p", "q", "p", None, "q", "p"]
    return [record(i, name) for i, name in enumerate(names)]


def indexes(units: tuple[np.ndarray, ...]) -> list[list[int]]:
    return [unit.tolist() for unit in units]


def contents(given: list[Record], most: int, key: bytes = KEY) -> dict[str, list[str]]:
    """What each named person takes part with, sorted."""
    return {
        str(given[unit[0]].person): sorted(given[i].instruction for i in unit)
        for unit in make_units(given, "person", most, key)
        if given[unit[0]].person is not None
    }


def test_a_record_is_a_unit_of_its_own() -> None:
    units = make_units(records(), "record", None, KEY)
    assert indexes(units) == [[i] for i in range(10)]
    assert all(unit.dtype == np.int64 for unit in units)


def test_a_person_is_all_records_with_one_identifier() -> None:
    units = make_units(records(), "person", 16, KEY)
    assert indexes(units) == [[0, 3, 4, 6, 9], [1, 5, 8], [2], [7]]
    assert all(unit.dtype == np.int64 for unit in units)


def test_records_without_an_identifier_are_not_one_person() -> None:
    nobody = [record(i, None) for i in range(4)]
    assert indexes(make_units(nobody, "person", 1, KEY)) == [[0], [1], [2], [3]]
    assert count_units(nobody, "person") == 4


def test_the_counts() -> None:
    assert count_units(records(), "record") == 10
    assert count_units(records(), "person") == 4
    assert len(make_units(records(), "person", 1, KEY)) == 4


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_cap(most: int) -> None:
    whole = indexes(make_units(records(), "person", 16, KEY))
    capped = indexes(make_units(records(), "person", most, KEY))
    for kept, all_of_them in zip(capped, whole, strict=True):
        assert len(kept) == min(most, len(all_of_them))
        assert set(kept) <= set(all_of_them)
        assert kept == sorted(kept)


def test_a_smaller_cap_keeps_a_part_of_a_larger_ones() -> None:
    small, large = (make_units(records(), "person", k, KEY) for k in (2, 3))
    for few, more in zip(small, large, strict=True):
        assert set(few.tolist()) <= set(more.tolist())


def test_other_persons_do_not_change_the_choice() -> None:
    """Neither with their number, their contents, nor by being there at all."""
    given = records()
    before = contents(given, 2)["p"]
    alone = [r for r in given if r.person == "p"]
    assert contents(alone, 2)["p"] == before
    crowded = [*(record(100 + i, f"x{i % 3}") for i in range(50)), *given]
    assert contents(crowded, 2)["p"] == before
    rewritten = [r if r.person == "p" else replace(r, input="other") for r in given]
    assert contents(rewritten, 2)["p"] == before
    without = [r for r in given if r.person is not None]
    assert contents(without, 2) == contents(given, 2)


def test_the_order_of_the_file_does_not_change_the_choice() -> None:
    given, shuffler = records(), random.Random(7)
    before = contents(given, 2)
    for _ in range(20):
        shuffler.shuffle(given)
        assert contents(given, 2) == before


def test_every_record_has_its_turn_under_some_key() -> None:
    """The choice is the hash's: no record is favoured by where or what it is."""
    picked = {
        instruction
        for number in range(64)
        for instruction in contents(records(), 1, bytes([number]))["p"]
    }
    assert picked == {f"instruction {i}" for i in (0, 3, 4, 6, 9)}


def test_exact_duplicates_are_taken_in_the_order_of_the_file() -> None:
    same = [record(1, "p")] * 4
    assert indexes(make_units(same, "person", 2, KEY)) == [[0, 1]]
    # Twins tie wherever they stand: both are in, or a part of them is.
    twins = [record(1, "p"), record(2, "p"), record(1, "p")]
    kept = contents(twins, 2)["p"]
    assert contents(twins[::-1], 2)["p"] == kept


def test_equal_records_of_different_persons_are_different() -> None:
    assert record_bytes(record(1, "p")) != record_bytes(record(1, "q"))
    assert record_bytes(record(1, "p")) == record_bytes(record(1, "p"))
    # Neither can text move from one field to the next, nor null be a text.
    assert record_bytes(Record("ab", "", "c")) != record_bytes(Record("a", "b", "c"))
    assert record_bytes(record(1, "null")) != record_bytes(record(1, None))


def test_the_commitment_of_a_data_set_is_what_it_was() -> None:
    """The same encoding as ever: an opened ledger would take another one for new data."""
    key = SigningKey.from_seed(bytes(32))
    given = [Record("Ask", "", "Ünde\n", None, "p1"), record(3, None)]
    golden = "eee9481d5c7c49a9cbd8bbf9e57bee26bface87879c255b163ffd8017236f636"
    assert commitment(given, key).hex() == golden


@pytest.mark.parametrize(
    ("unit", "most"), [("person", None), ("person", 0), ("record", 3)]
)
def test_a_cap_that_does_not_go_with_the_unit_is_refused(
    unit: str, most: int | None
) -> None:
    with pytest.raises(ValueError, match="most_records"):
        make_units(records(), unit, most, KEY)  # type: ignore[arg-type]


def test_persons_need_a_column() -> None:
    require_persons(ColumnMap(), "record")
    require_persons(ColumnMap(person="patient"), "person")
    with pytest.raises(ConfigError, match=r"'data\.columns\.person' doesn't say"):
        require_persons(ColumnMap(), "person")
