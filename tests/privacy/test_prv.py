"""Our PRV accountant against dp-accounting's PLD, Opacus's PRV, and closed forms."""

from __future__ import annotations

import math

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

from fedit_secure.privacy import prv
from fedit_secure.privacy.mechanisms import Mechanism, PrivacyAccountingError, event_of

# The evidence page's table: q, sigma, steps, delta; PRV, PLD.
GOLDEN = [
    (0.02, 1.0, 1000, 1e-5, 3.909, 3.899),
    (0.0064, 0.6, 3000, 1e-5, 7.808, 7.797),
    (0.05, 2.0, 500, 1e-6, 2.883, 2.873),
    (1.0, 10.0, 50, 1e-5, 2.953, 2.943),
]
GRID = [
    (0.05, 1.224, 300, 1e-5),
    (0.01, 4.0, 1, 1e-6),
    (0.3, 0.7, 3, 1e-6),
    (0.99, 1.0, 10, 1e-6),
    (0.5, 20.0, 10, 1e-6),
    (0.001, 1.0, 20_000, 1e-6),
    (0.05, 0.5, 300, 1e-5),
    (0.05, 1.2, 24, 1e-8),
    (0.05, 1.2, 300, 1e-10),
]


def pld(*mechanisms: Mechanism, delta: float) -> float:
    accountant = PLDAccountant(dpa.NeighboringRelation.REPLACE_SPECIAL)
    return float(accountant.compose(event_of(mechanisms)).get_epsilon(delta))


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "golden", "by_pld"), GOLDEN)
def test_the_golden_table(
    q: float, sigma: float, steps: int, delta: float, golden: float, by_pld: float
) -> None:
    found = prv.epsilon([Mechanism(q, sigma, steps)], delta)
    assert found == pytest.approx(golden, abs=6e-4)
    assert abs(found - by_pld) <= 0.02


@pytest.mark.parametrize(("q", "sigma", "steps", "delta"), GRID)
def test_it_is_above_pld_by_its_mesh_error(
    q: float, sigma: float, steps: int, delta: float
) -> None:
    found = prv.epsilon([Mechanism(q, sigma, steps)], delta)
    gap = found - pld(Mechanism(q, sigma, steps), delta=delta)
    assert 0.008 <= gap <= 0.015


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta"), [row[:4] for row in GOLDEN] + GRID[1:3]
)
def test_opacus_says_the_same(q: float, sigma: float, steps: int, delta: float) -> None:
    accountants = pytest.importorskip(
        "opacus.accountants", reason="Opacus isn't installed: no third opinion"
    )
    accountant = accountants.PRVAccountant()
    accountant.history = [(sigma, q, steps)]
    theirs = accountant.get_epsilon(delta)
    assert prv.epsilon([Mechanism(q, sigma, steps)], delta) == pytest.approx(
        theirs, abs=1e-4
    )


@pytest.mark.parametrize("sigma", [0.8, 3.0, 10.0])
@pytest.mark.parametrize("steps", [1, 50])
def test_it_bounds_the_closed_form_of_the_unsampled_gaussian(
    sigma: float, steps: int
) -> None:
    found = prv.epsilon([Mechanism(1.0, sigma, steps)], 1e-6)
    exact = dpa.get_epsilon_gaussian(sigma / math.sqrt(steps), 1e-6)
    assert 0 <= found - exact <= 0.012


def test_the_bound_holds_at_its_own_delta_for_one_sampled_step() -> None:
    # delta(epsilon) of one step is exact: P over Q where the loss exceeds epsilon.
    q, sigma, delta = 0.2, 0.8, 1e-5
    epsilon = prv.epsilon([Mechanism(q, sigma, 1)], delta)

    def exact(at: float) -> float:
        x = sigma**2 * math.log1p(math.expm1(at) / q) + 0.5
        mixture = (1 - q) * norm.sf(x / sigma) + q * norm.sf((x - 1) / sigma)
        return float(mixture - math.exp(at) * norm.sf(x / sigma))

    assert exact(epsilon) <= delta <= exact(epsilon - 0.012)


def test_both_directions_are_looked_at() -> None:
    mechanism = Mechanism(0.05, 1.224, 300)
    removing, adding = (
        prv._one_direction([prv._Loss(mechanism, removal=r)], 1e-5, 0.01)
        for r in (True, False)
    )
    accountant = PLDAccountant(dpa.NeighboringRelation.ADD_OR_REMOVE_ONE)
    both = accountant.compose(event_of([mechanism]))._pld
    assert removing - prv.EPSILON_ERROR == pytest.approx(
        both._pmf_remove.get_epsilon_for_delta(1e-5), abs=1e-3
    )
    assert adding - prv.EPSILON_ERROR == pytest.approx(
        both._pmf_add.get_epsilon_for_delta(1e-5), abs=1e-3
    )
    assert adding < removing


def test_different_mechanisms_compose() -> None:
    parts = [
        Mechanism(0.05, 1.224, 100),
        Mechanism(0.02, 0.9, 200),
        Mechanism(1.0, 9, 3),
    ]
    together = prv.epsilon(parts, 1e-6)
    assert 0.008 <= together - pld(*parts, delta=1e-6) <= 0.015
    halves = [Mechanism(0.05, 1.224, 150), Mechanism(0.05, 1.224, 150)]
    whole = prv.epsilon([Mechanism(0.05, 1.224, 300)], 1e-5)
    assert prv.epsilon(halves, 1e-5) == pytest.approx(whole, abs=1e-6)


def test_the_discretised_loss_keeps_its_mean_and_its_mass() -> None:
    loss = prv._Loss(Mechanism(0.05, 1.224, 1), removal=True)
    masses, shift = prv._compose([loss], 1e-3, 1 << 15)
    values = 1e-3 * np.arange(-(1 << 14), 1 << 14) + shift
    x, weights = loss.quadrature(-20, 21)
    assert masses.sum() == pytest.approx(1, abs=1e-12)
    assert masses @ values == pytest.approx(weights @ loss.of(x), abs=1e-12)
    assert abs(shift) <= 5e-4


def test_epsilon_falls_with_noise_and_delta_and_rises_with_steps() -> None:
    def epsilon(sigma: float = 1.0, steps: int = 100, delta: float = 1e-6) -> float:
        return prv.epsilon([Mechanism(0.05, sigma, steps)], delta)

    assert epsilon(sigma=1.1) < epsilon() < epsilon(sigma=0.9)
    assert epsilon(steps=90) < epsilon() < epsilon(steps=110)
    assert epsilon(delta=1e-5) < epsilon() < epsilon(delta=1e-7)


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(0.05, 0.01, 1),
        Mechanism(0.05, 0.1, 300),
        Mechanism(1.0, 1e-9, 10**9),
        Mechanism(0.001, 1.0, 10**7),
    ],
)
@pytest.mark.timeout(10)
def test_what_would_fill_the_memory_is_refused_at_once(mechanism: Mechanism) -> None:
    with pytest.raises(PrivacyAccountingError, match="more noise or fewer steps"):
        prv.epsilon([mechanism], 1e-6)


def test_a_delta_below_float_precision_is_refused() -> None:
    with pytest.raises(PrivacyAccountingError, match="too small"):
        prv.epsilon([Mechanism(0.05, 1.2, 300)], 1e-15)


@pytest.mark.parametrize(
    ("mechanism", "delta"),
    [
        (Mechanism(0.0, 1.0, 1), 1e-6),
        (Mechanism(1.1, 1.0, 1), 1e-6),
        (Mechanism(0.5, 0.0, 1), 1e-6),
        (Mechanism(0.5, math.nan, 1), 1e-6),
        (Mechanism(0.5, 1.0, 0), 1e-6),
        (Mechanism(0.5, 1.0, 1), 0.0),
        (Mechanism(0.5, 1.0, 1), 1.0),
    ],
)
def test_nonsense_is_refused(mechanism: Mechanism, delta: float) -> None:
    with pytest.raises(ValueError, match=r"delta is|no mechanism has"):
        prv.epsilon([mechanism], delta)


def test_nothing_costs_nothing() -> None:
    assert prv.epsilon([], 1e-6) == 0
