"""What is reported beside the claim, for both units."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting as dpa
import numpy as np
import pytest

from fedit_secure.privacy.neighbourhoods import (
    across_silos,
    changed_record_epsilon,
    person_epsilon,
    readings,
    replace_one_epsilon,
)
from fedit_secure.privacy.plan import DpPlan

RECORD = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.224,
    clip=0.7,
    expected_batch=64,
    local_steps=10,
    rounds=30,
    spare_charges=0,
    delta=1e-5,
)
PERSON = replace(RECORD, unit="person", records_per_person=16)


def test_a_person_costs_what_a_record_would_at_the_same_figures() -> None:
    """One coin and one vector of norm C, whichever the unit is."""
    assert PERSON.run_event() == RECORD.run_event()
    assert PERSON.epsilons() == RECORD.epsilons()


@pytest.mark.parametrize("records", [1, 4, 65, 10_000])
def test_a_person_unit_covers_any_number_of_records(records: int) -> None:
    assert person_epsilon(PERSON, records) == PERSON.epsilons().published


def test_one_changed_record_of_a_person_who_stays_is_a_replaced_person() -> None:
    claim, changed = PERSON.epsilons().published, changed_record_epsilon(PERSON)
    assert changed == replace_one_epsilon(PERSON.run_event(), 1e-5)
    assert changed == pytest.approx(6.75, abs=5e-3)
    assert changed > claim
    with pytest.raises(ValueError, match="a plan per record"):
        changed_record_epsilon(RECORD)


def test_a_changed_record_is_a_gaussian_of_twice_the_clip_without_sampling() -> None:
    plan = replace(PERSON, sample_rate=1.0, noise_multiplier=40.0)
    exact = dpa.get_epsilon_gaussian(40.0 / 2 / math.sqrt(300), 1e-5)
    assert changed_record_epsilon(plan) == pytest.approx(exact, abs=1e-3)
    # And the claim would be too small for it: it is one of once the clip.
    assert plan.epsilons().published < exact


def test_one_record_can_turn_a_clipped_sum_around() -> None:
    """The distance of 2C that the docstring argues with is reached."""

    def clipped(vector: np.ndarray) -> np.ndarray:
        return vector * min(1.0, 0.7 / float(np.linalg.norm(vector)))

    rest, one = np.array([5.0, 0.0, 0.0]), np.array([-1e6, 0.0, 0.0])
    moved = np.linalg.norm(clipped(rest) - clipped(rest + one))
    assert moved == pytest.approx(2 * 0.7)


def test_the_readings_of_a_plan_per_record() -> None:
    found = list(readings(RECORD, records=(4,), elsewhere=(RECORD,)))
    assert [round(r.epsilon, 1) for r in found] == [4.0, 6.8, 21.5, 5.8]
    assert [r.by for r in found] == [
        "max(PLD, PRV)",
        "PLD alone",
        "PLD alone",
        "max(PLD, PRV)",
    ]
    assert "the claim" in found[0].hidden
    assert "zeroed out" in found[0].hidden
    assert "4 records" in found[2].hidden
    assert "2 silos" in found[3].hidden


def test_the_readings_of_a_plan_per_person() -> None:
    found = list(readings(PERSON, elsewhere=(PERSON, PERSON)))
    claim = PERSON.epsilons().published
    assert [r.epsilon for r in found] == [
        claim,
        changed_record_epsilon(PERSON),
        across_silos([PERSON] * 3),
    ]
    assert found[1].by == "PLD alone"
    assert "one person, with all records" in found[0].hidden
    assert "person stays" in found[1].hidden
    assert "3 silos" in found[2].hidden


def test_secret_sizes_are_read_as_added_or_removed() -> None:
    first = next(readings(replace(PERSON, sizes="secret")))
    assert "added or removed" in first.hidden


def test_readings_come_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has seen enough doesn't pay for the next."""

    def never(*_: object) -> float:
        raise AssertionError("computed before it was asked for")

    module = "fedit_secure.privacy.neighbourhoods"
    monkeypatch.setattr(f"{module}.replace_one_epsilon", never)
    monkeypatch.setattr(f"{module}.across_silos", never)
    assert next(readings(PERSON, elsewhere=(PERSON,))).epsilon < 5


def test_without_dp_every_reading_is_unbounded() -> None:
    for plan in (RECORD, PERSON):
        bare = replace(plan, kind="none", noise_multiplier=0.0, delta=None)
        found = list(readings(bare, elsewhere=(bare,)))
        assert {r.epsilon for r in found} == {math.inf}
