"""Published epsilons, their cross-checks, and calibration."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting as dpa
import pytest

from fedit_secure.errors import BudgetExhausted
from fedit_secure.privacy import accountant, prv
from fedit_secure.privacy.accountant import (
    Epsilons,
    PrivacyAccountingError,
    calibrate,
    epsilons,
)
from fedit_secure.privacy.mechanisms import Mechanism, event_of, mechanisms_of
from fedit_secure.privacy.neighbourhoods import (
    across_silos,
    person_epsilon,
    replace_one_epsilon,
)
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.privacy.renyi import ORDERS, best_order, filter_epsilon, rdp_epsilon

GOLDEN_PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.224,
    clip=1.0,
    expected_batch=64,
    local_steps=15,
    rounds=20,
    spare_charges=0,
    delta=1e-5,
)


def event(q: float, sigma: float, steps: int) -> dpa.DpEvent:
    return event_of([Mechanism(q, sigma, steps)])


# ----------------------------------------------------------------------- golden figures


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta", "by_pld", "by_prv", "by_rdp"),
    [
        (0.02, 1.0, 1000, 1e-5, 3.899, 3.909, 4.324),
        (0.0064, 0.6, 3000, 1e-5, 7.797, 7.808, 8.974),
        (0.05, 2.0, 500, 1e-6, 2.873, 2.883, 3.102),
        (1.0, 10.0, 50, 1e-5, 2.943, 2.953, 3.189),
    ],
)
def test_the_golden_table(
    q: float,
    sigma: float,
    steps: int,
    delta: float,
    by_pld: float,
    by_prv: float,
    by_rdp: float,
) -> None:
    found = epsilons(event(q, sigma, steps), delta)
    assert found.pld == pytest.approx(by_pld, abs=6e-4)
    assert found.prv == pytest.approx(by_prv, abs=6e-4)
    assert found.rdp == pytest.approx(by_rdp, abs=6e-4)
    assert found.published == max(found.pld, found.prv)


def test_the_golden_plan_costs_four() -> None:
    found = GOLDEN_PLAN.epsilons()
    assert found.pld == pytest.approx(4.00, abs=5e-3)
    assert 0 < found.published - 4.00 < 0.02


def test_the_unsampled_gaussian_has_its_closed_form() -> None:
    for sigma, steps, delta in ((10.0, 50, 1e-5), (2.0, 1, 1e-6), (30.0, 400, 1e-7)):
        exact = dpa.get_epsilon_gaussian(sigma / math.sqrt(steps), delta)
        found = epsilons(event(1.0, sigma, steps), delta)
        assert found.pld == pytest.approx(exact, abs=1e-5)
        assert 0 <= found.prv - exact <= 0.012


def test_what_is_reported_beside_the_claim() -> None:
    run = GOLDEN_PLAN.run_event()
    assert replace_one_epsilon(run, 1e-5) == pytest.approx(6.75, abs=5e-3)
    assert across_silos([GOLDEN_PLAN]) == GOLDEN_PLAN.epsilons().published
    assert across_silos([GOLDEN_PLAN, GOLDEN_PLAN]) == pytest.approx(5.76, abs=0.015)
    assert person_epsilon(GOLDEN_PLAN, 1) == GOLDEN_PLAN.epsilons().published
    assert person_epsilon(GOLDEN_PLAN, 4) == pytest.approx(21.5, abs=0.01)


def test_a_person_without_sampling_is_one_larger_release() -> None:
    plan = replace(GOLDEN_PLAN, sample_rate=1.0, noise_multiplier=40.0)
    exact = dpa.get_epsilon_gaussian(40.0 / 4 / math.sqrt(300), 1e-5)
    assert 0 <= person_epsilon(plan, 4) - exact <= 0.015


def test_a_person_with_very_many_records_is_promised_nothing() -> None:
    assert person_epsilon(GOLDEN_PLAN, 65) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        person_epsilon(GOLDEN_PLAN, 0)


def test_silos_with_different_deltas_are_not_composed() -> None:
    with pytest.raises(ValueError, match="one delta"):
        across_silos([GOLDEN_PLAN, replace(GOLDEN_PLAN, delta=1e-6)])


# --------------------------------------------------------------------------- composition


def test_a_round_at_a_time_costs_what_the_whole_run_costs() -> None:
    """The bug of one accountant a round: 1.14 instead of 4.00."""
    rounds = dpa.ComposedDpEvent([GOLDEN_PLAN.round_event()] * GOLDEN_PLAN.rounds)
    assert epsilons(rounds, 1e-5) == GOLDEN_PLAN.epsilons()
    one = epsilons(GOLDEN_PLAN.round_event(), 1e-5).published
    assert one == pytest.approx(1.15, abs=0.01)


def test_dp_accounting_composes_the_rounds_to_the_same_figure() -> None:
    plan = replace(GOLDEN_PLAN, rounds=3, local_steps=100)
    naive = dpa.pld.PLDAccountant(dpa.NeighboringRelation.REPLACE_SPECIAL)
    for _ in range(plan.rounds):
        naive.compose(plan.round_event())
    assert naive.get_epsilon(1e-5) == pytest.approx(plan.epsilons().pld, abs=1e-6)


def test_both_relations_cost_the_same_and_replacing_is_refused() -> None:
    run, relations = GOLDEN_PLAN.run_event(), dpa.NeighboringRelation
    assert epsilons(run, 1e-5, relations.ADD_OR_REMOVE_ONE) == epsilons(
        run, 1e-5, relations.REPLACE_SPECIAL
    )
    adding = dpa.pld.PLDAccountant(relations.ADD_OR_REMOVE_ONE).compose(run)
    assert adding.get_epsilon(1e-5) == pytest.approx(epsilons(run, 1e-5).pld, abs=1e-9)
    with pytest.raises(ValueError, match="replacing"):
        epsilons(run, 1e-5, relations.REPLACE_ONE)


def test_equal_steps_are_counted_together_in_any_nesting() -> None:
    step = dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(2.0))
    nested = dpa.SelfComposedDpEvent(
        dpa.ComposedDpEvent(
            [step, dpa.SelfComposedDpEvent(step, 3), dpa.NoOpDpEvent()]
        ),
        5,
    )
    plain = dpa.GaussianDpEvent(3.0)
    assert mechanisms_of(dpa.ComposedDpEvent([plain, nested, plain])) == (
        Mechanism(0.1, 2.0, 20),
        Mechanism(1.0, 3.0, 2),
    )


def test_no_privacy_anywhere_means_none_at_all() -> None:
    nothing = Epsilons.same(math.inf)
    for bad in (
        dpa.NonPrivateDpEvent(),
        dpa.GaussianDpEvent(0.0),
        dpa.ComposedDpEvent([GOLDEN_PLAN.run_event(), dpa.NonPrivateDpEvent()]),
    ):
        assert epsilons(bad, 1e-5) == nothing
        assert replace_one_epsilon(bad, 1e-5) == math.inf
        assert filter_epsilon(bad, 8.0, 1e-5) == math.inf
    without = replace(GOLDEN_PLAN, kind="none", noise_multiplier=0.0, delta=None)
    assert without.epsilons() == nothing
    assert person_epsilon(without, 2) == math.inf
    assert across_silos([without]) == math.inf
    assert epsilons(dpa.ComposedDpEvent([]), 1e-5) == Epsilons.same(0.0)


def test_an_event_that_we_cannot_account_is_not_guessed() -> None:
    for unknown in (dpa.LaplaceDpEvent(1.0), dpa.UnsupportedDpEvent()):
        with pytest.raises(PrivacyAccountingError, match="can't be accounted"):
            epsilons(unknown, 1e-5)


# ------------------------------------------------------------------------- disagreement


@pytest.mark.parametrize("error", [-0.05, 0.05])
def test_accountants_that_disagree_state_nothing(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    accountant._figures.cache_clear()
    honest = prv.epsilon
    monkeypatch.setattr(prv, "epsilon", lambda m, d: honest(m, d) + error)
    with pytest.raises(PrivacyAccountingError, match="disagree"):
        epsilons(event(0.05, 2.0, 20), 1e-5)


def test_an_rdp_bound_below_pld_states_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    accountant._figures.cache_clear()
    monkeypatch.setattr(accountant, "rdp_epsilon", lambda m, d: 0.1)
    with pytest.raises(PrivacyAccountingError, match="disagree"):
        epsilons(event(0.05, 2.0, 20), 1e-5)


def test_very_weak_steps_get_a_mesh_that_is_fine_enough() -> None:
    """A million steps far below dp-accounting's mesh: it would round them up by half."""
    weak = event(1e-4, 4.0, 1_000_000)
    accountant = dpa.pld.PLDAccountant(dpa.NeighboringRelation.REPLACE_SPECIAL)
    assert accountant.compose(weak).get_epsilon(1e-6) > 0.13
    found = epsilons(weak, 1e-6)
    assert found.pld == pytest.approx(0.092, abs=1e-3)
    assert 0 < found.prv - found.pld < found.rdp - found.pld


@pytest.mark.timeout(10)
@pytest.mark.parametrize("q", [1e-4, 0.05, 1.0])
def test_a_hopeless_plan_is_refused_at_once(q: float) -> None:
    for sigma, steps in ((0.01, 1), (0.1, 10**6), (1e-6, 300)):
        with pytest.raises(PrivacyAccountingError, match="more noise or fewer steps"):
            epsilons(event(q, sigma, steps), 1e-6)
        with pytest.raises(PrivacyAccountingError, match="more noise or fewer steps"):
            replace_one_epsilon(event(q, sigma, steps), 1e-6)


# --------------------------------------------------------------------------- calibration


@pytest.mark.parametrize(
    ("target", "delta", "q", "steps"),
    [
        (8.0, 1e-6, 0.05, 32),
        (4.0, 1e-5, 0.05, 300),
        (1.0, 1e-6, 0.02, 1000),
        (2.0, 1e-6, 1.0, 50),
        (0.05, 1e-6, 0.05, 100),
    ],
)
@pytest.mark.timeout(60)
def test_calibration_finds_the_least_noise_that_keeps_to_the_target(
    target: float, delta: float, q: float, steps: int
) -> None:
    sigma = calibrate(target, delta, q, steps)
    assert epsilons(event(q, sigma, steps), delta).published <= target
    less = round(sigma - 1e-4, 4)
    assert epsilons(event(q, less, steps), delta).published > target
    assert round(sigma * 10_000) == pytest.approx(sigma * 10_000, abs=1e-6)


def test_calibration_is_held_by_pld_where_that_is_the_larger_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = calibrate(2.0, 1e-6, 0.05, 100)
    for cached in ("_figures", "_calibrate"):
        monkeypatch.setattr(accountant, cached, getattr(accountant, cached).__wrapped__)
    honest = prv.epsilon
    monkeypatch.setattr(accountant, "pld_epsilon", lambda m, d: honest(m, d) + 0.002)
    sigma = calibrate(2.0, 1e-6, 0.05, 100)
    found = epsilons(event(0.05, sigma, 100), 1e-6)
    assert found.published == found.pld <= 2.0
    assert sigma > usual


def test_a_created_plan_keeps_to_its_target_with_its_spares() -> None:
    plan = DpPlan.create(
        target_epsilon=8.0,
        delta=1e-6,
        sample_rate=0.1,
        clip=1.0,
        expected_batch=50,
        local_steps=8,
        rounds=3,
        spare_charges=1,
    )
    assert 7.98 < plan.epsilons().published <= 8.0
    assert plan.epsilons(spares=0).published < 7.9
    assert plan.target_epsilon == 8.0


def test_calibration_under_what_is_spent_needs_more_noise() -> None:
    spent = event(0.05, 3.0, 100)
    fresh = calibrate(2.0, 1e-6, 0.05, 100)
    after = calibrate(2.0, 1e-6, 0.05, 100, spent=spent)
    filtered = calibrate(2.0, 1e-6, 0.05, 100, spent=spent, filter_order=8.0)
    assert fresh < after < filtered
    together = dpa.ComposedDpEvent([spent, event(0.05, after, 100)])
    assert 1.99 < epsilons(together, 1e-6).published <= 2.0
    together = dpa.ComposedDpEvent([spent, event(0.05, filtered, 100)])
    assert 1.99 < filter_epsilon(together, 8.0, 1e-6) <= 2.0


def test_a_spent_budget_cannot_be_calibrated_under() -> None:
    for spent in (event(0.05, 1.0, 300), dpa.NonPrivateDpEvent()):
        with pytest.raises(BudgetExhausted):
            calibrate(2.0, 1e-6, 0.05, 100, spent=spent)


@pytest.mark.parametrize(
    "arguments",
    [
        (0.01, 1e-6, 0.1, 1),
        (math.inf, 1e-6, 0.1, 1),
        (8.0, 0.0, 0.1, 1),
        (8.0, 1e-6, 0, 1),
    ],
)
def test_calibration_refuses_nonsense(
    arguments: tuple[float, float, float, int],
) -> None:
    with pytest.raises(ValueError, match="is"):
        calibrate(*arguments)


# ------------------------------------------------------------------------------- filter


def test_the_filter_is_rdp_at_one_order() -> None:
    run = GOLDEN_PLAN.run_event()
    mechanisms = mechanisms_of(run)
    assert mechanisms is not None
    by_order = {order: filter_epsilon(run, order, 1e-5) for order in ORDERS[:80]}
    assert min(by_order.values()) == rdp_epsilon(mechanisms, 1e-5)
    theirs = dpa.rdp.RdpAccountant(ORDERS, dpa.NeighboringRelation.REPLACE_SPECIAL)
    expected = theirs.compose(run).get_epsilon(1e-5)
    assert min(by_order.values()) == pytest.approx(expected, abs=1e-9)
    for order in (2.0, 8.0, 40.0):  # at that one, not at the best of all
        theirs = dpa.rdp.RdpAccountant([order], dpa.NeighboringRelation.REPLACE_SPECIAL)
        expected = theirs.compose(run).get_epsilon(1e-5)
        assert filter_epsilon(run, order, 1e-5) == pytest.approx(expected, abs=1e-9)
    assert filter_epsilon(dpa.ComposedDpEvent([]), 8.0, 1e-5) == 0


def test_the_best_order_fits_most_copies_under_the_cap() -> None:
    run = GOLDEN_PLAN.run_event()
    just = min(filter_epsilon(run, order, 1e-5) for order in ORDERS)
    assert filter_epsilon(run, best_order(run, 1e-5, just), 1e-5) == just

    def copies(order: float, cap: float) -> int:
        count = 0
        while (
            filter_epsilon(dpa.SelfComposedDpEvent(run, count + 1), order, 1e-5) <= cap
        ):
            count += 1
        return count

    chosen = best_order(run, 1e-5, 20.0)
    assert copies(chosen, 20.0) >= max(copies(order, 20.0) for order in ORDERS[::8])
    assert copies(chosen, 20.0) > copies(best_order(run, 1e-5, just), 20.0) >= 1
    assert best_order(dpa.NonPrivateDpEvent(), 1e-6, 8.0) in ORDERS


def test_orders_whose_series_is_too_slow_are_left_out() -> None:
    half = event(0.5, 20.0, 10)
    assert filter_epsilon(half, 2.5, 1e-6) == math.inf
    assert math.isfinite(filter_epsilon(half, 3.0, 1e-6))
    assert best_order(half, 1e-6, 1.0) not in (2.2, 2.5, 3.9)
    found = epsilons(half, 1e-6)
    assert found.pld < found.rdp < 1.3 * found.pld
