"""Who is tried: units that were tuned on, and others that really weren't."""

from __future__ import annotations

import pytest

from fedit_secure.audit.leakage.sampled_units import (
    occurrences,
    sample_held_out,
    sample_members,
    times,
)
from fedit_secure.errors import ConfigError
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.units import make_units


def plan(cap=None):
    return DpPlan(
        sample_rate=0.5,
        noise_multiplier=1.0,
        clip=1.0,
        expected_batch=1,
        local_steps=1,
        rounds=1,
        delta=1e-5,
        unit="record" if cap is None else "person",
        records_per_person=cap,
    )


def located(*names, person=None):
    return [
        (f"line {number}", Record(name, "", "Yes.", person=person))
        for number, name in enumerate(names, 1)
    ]


NOBODY = {"most": 100, "seed": 0}


def names(sample):
    return sorted(record.instruction for _, record in sample.records)


def test_draw_is_bounded_by_records_and_repeats():
    own = located(*map(str, range(50)))
    samples = [
        sample_members(own, (), plan(), b"k", most=10, seed=seed) for seed in (1, 1, 2)
    ]
    assert [len(sample.records) for sample in samples] == [10, 10, 10]
    assert samples[0] == samples[1] != samples[2]
    assert samples[0].of == 50


def test_records_in_both_files_are_tried_on_neither_side():
    own, held = located("a", "b", "c"), located("b", "x")
    members = sample_members(own, held, plan(), b"k", **NOBODY)
    assert (names(members), members.left_out) == (["a", "c"], 1)
    others = sample_held_out(held, own, plan(), b"k", **NOBODY)
    assert (names(others), others.left_out) == (["x"], 1)


def test_the_silos_own_file_is_not_held_out():
    own = located("a", "b")
    with pytest.raises(ConfigError, match="nothing was held out"):
        sample_held_out(own, own, plan(), b"k", **NOBODY)


def test_persons_are_drawn_whole_and_with_the_records_that_tuning_takes():
    own = [
        (f"line {i}", Record(f"q{i}", "", "Yes.", person=f"p{i % 4}"))
        for i in range(40)
    ]
    sample = sample_members(own, (), plan(cap=3), b"k", most=6, seed=0)
    assert [len(unit) for unit in sample.units] == [3, 3]
    taken = make_units([record for _, record in own], "person", 3, b"k")
    expected = {tuple(own[i] for i in unit) for unit in taken}
    assert set(sample.units) <= expected
    # One unit is taken even where it has more records than asked for.
    assert len(sample_members(own, (), plan(cap=3), b"k", most=1, seed=0).records) == 3


def test_a_person_of_the_silos_is_not_held_out():
    own = located("a", person="p")
    held = [*located("b", person="p"), *located("c", person="q"), *located("d")]
    others = sample_held_out(held, own, plan(cap=2), b"k", **NOBODY)
    assert names(others) == ["c", "d"]
    # Where records are the units, another record of the same person is another unit.
    others = sample_held_out(held, own, plan(), b"k", **NOBODY)
    assert names(others) == ["b", "c", "d"]
    with pytest.raises(ConfigError, match="or of a person in it"):
        sample_held_out(held[:1], own, plan(cap=2), b"k", **NOBODY)


def test_occurrences_count_equal_texts():
    counted = occurrences(located("a", "b", "a"))
    assert [times(record, counted) for _, record in located("a", "b", "c")] == [2, 1, 0]
