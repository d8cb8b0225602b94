"""The synthetic hospitals: seeded, uneven, balanced where they are tested."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fedit_secure.demo.hospital import (
    RECORDS_PER_SILO,
    SPECIALITIES,
    TASKS,
    held_out_records,
    mixture,
    silo_records,
    write_silos,
)
from fedit_secure.tuning.job import ColumnMap, DataSource
from fedit_secure.tuning.records import load_records

SEEDS = (0, 1)


@pytest.fixture(scope="module", params=SEEDS)
def hospitals(request):
    seed = request.param
    silos = {name: silo_records(name, seed) for name in SPECIALITIES}
    return seed, silos, held_out_records(seed)


def test_the_seed_decides_every_record():
    once = silo_records("oncology", 3, 200)
    assert silo_records("oncology", 3, 200) == once
    assert silo_records("oncology", 4, 200) != once
    assert silo_records("cardiology", 3, 200) != once


def test_silos_hold_thousands_of_distinct_records(hospitals):
    _, silos, _ = hospitals
    assert RECORDS_PER_SILO >= 2000
    for records in silos.values():
        assert len(records) == RECORDS_PER_SILO
        assert len({(r.instruction, r.input) for r in records}) == RECORDS_PER_SILO


def test_a_patient_has_two_or_three_records_in_one_silo(hospitals):
    _, silos, _ = hospitals
    patients = [Counter(r.patient_id for r in records) for records in silos.values()]
    for counts in patients:
        # The last patient may be cut short.
        assert sorted(set(counts.values()))[-2:] == [2, 3]
        assert sum(count == 1 for count in counts.values()) <= 1
    assert len(set().union(*patients)) == sum(map(len, patients))


def test_each_silo_lacks_tasks_that_others_hold(hospitals):
    seed, silos, _ = hospitals
    shares = mixture(seed)
    for name, records in silos.items():
        counts = Counter(r.category for r in records)
        assert sum(counts[task] == 0 for task in TASKS) >= 2
        for task, share in shares[name].items():
            # Six standard deviations of a binomial count.
            spread = 6 * (share * (1 - share) * len(records)) ** 0.5
            assert abs(counts[task] - share * len(records)) <= spread
    for task in TASKS:
        holders = sum(shares[name][task] > 0.05 for name in SPECIALITIES)
        assert 1 <= holders < len(SPECIALITIES)


def test_mixtures_differ_between_seeds():
    assert mixture(0) != mixture(1)
    for shares in mixture(0).values():
        assert sum(shares.values()) == pytest.approx(1.0)


def test_the_held_out_set_is_balanced_and_new(hospitals):
    _, silos, held_out = hospitals
    assert len(set(Counter(r.category for r in held_out).values())) == 1
    assert {r.category for r in held_out} == set(TASKS)
    known = {r for records in silos.values() for r in records}
    texts = {(r.instruction, r.input) for r in known}
    assert not any((r.instruction, r.input) in texts for r in held_out)
    patients = {r.patient_id for r in known}
    assert not any(r.patient_id in patients for r in held_out)


def test_an_input_has_one_right_answer(hospitals):
    _, silos, held_out = hospitals
    answers: dict[tuple[str, str], str] = {}
    for record in [*held_out, *(r for records in silos.values() for r in records)]:
        asked = (record.category, record.input)
        assert answers.setdefault(asked, record.response) == record.response


def test_files_are_read_by_the_silos_own_loader(tmp_path):
    files = write_silos(tmp_path / "data", 5)
    assert tuple(files.silos) == SPECIALITIES
    columns = ColumnMap(category="category", person="patient_id")
    for name, path in files.silos.items():
        loaded = load_records(DataSource(path=str(path), columns=columns))
        expected = silo_records(name, 5)
        assert [
            (r.instruction, r.input, r.response, r.category, r.person) for r in loaded
        ] == [
            (r.instruction, r.input, r.response, r.category, r.patient_id)
            for r in expected
        ]
    lines = files.test.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(held_out_records(5))
    assert set(json.loads(lines[0])) == {
        "instruction",
        "input",
        "response",
        "category",
        "patient_id",
    }
