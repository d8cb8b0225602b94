"""An evaluation's figures, and what they cost: from one object."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import dp_accounting as dpa
import pytest

from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.events import Intent, decode
from fedit_secure.privacy.mechanisms import mechanisms_of
from fedit_secure.privacy.neighbourhoods import person_epsilon
from fedit_secure.privacy.plan import DpPlan

OWN = EvaluationPlan(clip=10.0, noise_multiplier=6.0, expected=50)
PLAN = DpPlan(
    sample_rate=0.1,
    noise_multiplier=1.5,
    clip=1.0,
    expected_batch=10,
    local_steps=3,
    rounds=4,
    spare_charges=1,
    delta=1e-5,
    evaluation=OWN,
)


def intent(plan: DpPlan) -> Intent:
    digest = "ab" * 32
    return Intent.of(
        plan,
        charter=digest,
        run="r",
        round=1,
        state_digest=digest,
        weight=1,
        dtype="float32",
    )


def test_a_unit_counts_from_the_middle_so_its_bound_is_half_the_clip() -> None:
    assert OWN.middle == 5.0
    assert OWN.bound == pytest.approx(5.0, rel=1.1e-4)
    assert OWN.bound > 5.0
    assert OWN.deviation == pytest.approx(6.0 * 5.0 / 50, rel=1.1e-4)
    # Beyond a hundred units the allowance for rounding grows with them.
    many = replace(OWN, expected=10_000)
    assert many.bound == pytest.approx(5.0 * 1.01)


def test_plan_event_and_ledger_entry_say_the_same() -> None:
    tuned = dpa.SelfComposedDpEvent(
        dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(1.5)), 3
    )
    evaluated = dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(6.0), 1)
    assert PLAN.round_event() == dpa.ComposedDpEvent([tuned, evaluated])
    entry = intent(PLAN)
    assert entry.event() == PLAN.round_event()
    assert entry.event(5) == PLAN.run_event()
    assert decode(entry.to_bytes()) == entry
    assert mechanisms_of(PLAN.run_event()) == ((0.1, 1.5, 15), (1.0, 6.0, 5))


def test_without_an_evaluation_an_entry_has_the_bytes_that_it_always_had() -> None:
    before = intent(replace(PLAN, evaluation=None))
    assert b"evaluation" not in before.to_bytes()
    assert decode(before.to_bytes()) == before
    null = before.to_bytes().replace(b'"expected', b'"evaluation":null,"expected')
    with pytest.raises(ValueError, match="canonical"):
        decode(null)


def test_its_cost_is_composed_as_if_each_unit_was_tuned_and_evaluated() -> None:
    """dp-accounting, told of both mechanisms by hand, says no more than we claim."""
    alone = replace(PLAN, evaluation=None).epsilons().published
    accountant = dpa.pld.PLDAccountant(dpa.NeighboringRelation.REPLACE_SPECIAL)
    step = dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(1.5))
    accountant.compose(dpa.SelfComposedDpEvent(step, 15))
    accountant.compose(dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(6.0), 5))
    both = PLAN.epsilons()
    assert both.published >= accountant.get_epsilon(1e-5) - 1e-9
    assert both.pld == pytest.approx(accountant.get_epsilon(1e-5), abs=1e-3)
    assert both.published > alone + 0.05


def test_calibration_leaves_room_for_it() -> None:
    def create(evaluation: EvaluationPlan | None) -> DpPlan:
        return DpPlan.create(
            target_epsilon=3.0,
            delta=1e-5,
            sample_rate=0.1,
            clip=1.0,
            expected_batch=10,
            local_steps=3,
            rounds=4,
            evaluation=evaluation,
        )

    without, plan = create(None), create(OWN)
    assert plan.noise_multiplier > without.noise_multiplier
    assert 2.95 < plan.epsilons().published <= 3.0
    # What was calibrated without it would break the promise.
    broken = replace(without, evaluation=OWN)
    assert epsilons(broken.run_event(), 1e-5).published > 3.0


def test_a_person_with_several_records_is_in_the_figure_several_times() -> None:
    """By hand: k records move the sum k times as far."""
    plan = replace(PLAN, sample_rate=1.0, noise_multiplier=9.0)
    by_hand = dpa.ComposedDpEvent(
        [
            dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(9.0 / 3), 15),
            dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(6.0 / 3), 5),
        ]
    )
    assert person_epsilon(plan, 3) == epsilons(by_hand, 1e-5).published
    # Sampled, it is a mixture: the figures come on top of that, too.
    small = replace(PLAN, rounds=1, spare_charges=0, local_steps=1)
    tuned_alone = person_epsilon(replace(small, evaluation=None), 2)
    assert person_epsilon(small, 2) > tuned_alone + 0.05


def test_a_plan_survives_its_json() -> None:
    assert DpPlan.from_dict(PLAN.as_dict()) == PLAN
    with pytest.raises(ValueError, match="evaluation must have the fields"):
        DpPlan.from_dict(PLAN.as_dict() | {"evaluation": {"clip": 1.0}})


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": math.inf}, "clip is inf"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier is nan"),
        ({"noise_multiplier": "6"}, "not a number"),
        ({"expected": 0}, "expected is 0"),
        ({"expected": True}, "expected is True"),
    ],
)
def test_values_out_of_range_are_named(changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        replace(OWN, **changes)


def test_noise_is_there_under_dp_and_only_then() -> None:
    quiet = replace(OWN, noise_multiplier=0.0)
    with pytest.raises(ValueError, match="needs noise"):
        replace(PLAN, evaluation=quiet)
    none = {"kind": "none", "noise_multiplier": 0.0, "delta": None}
    with pytest.raises(ValueError, match="has no noise"):
        replace(PLAN, **none)
    open_plan = replace(PLAN, **none, evaluation=quiet)
    assert mechanisms_of(open_plan.run_event()) is None
    assert intent(open_plan).evaluation_noise == 0.0
    lying = (
        intent(PLAN)
        .to_bytes()
        .replace(b'"noise_multiplier":6.0', b'"noise_multiplier":0')
    )
    with pytest.raises(ValueError, match="noise under DP"):
        decode(lying)
