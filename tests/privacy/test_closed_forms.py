"""Accountants against formulas and laws that no accountant was needed to derive."""

from __future__ import annotations

import itertools
import math
import random

import dp_accounting as dpa
import pytest
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.mechanisms import Mechanism, event_of, mechanisms_of
from fedit_secure.privacy.neighbourhoods import across_silos, person_epsilon
from fedit_secure.privacy.plan import DpPlan

PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.224,
    clip=1.0,
    expected_batch=64,
    local_steps=300,
    rounds=1,
    spare_charges=0,
    delta=1e-5,
)
FIRST = Mechanism(0.05, 1.3, 120)
SECOND = Mechanism(0.02, 0.9, 300)


def analytic_gaussian(sigma: float, delta: float) -> float:
    """Epsilon of one Gaussian release.

    Balle, Wang 2018 (arXiv 1805.06530), theorem 8: delta at epsilon is
    Phi(1/(2 sigma) - epsilon sigma) - e^epsilon Phi(-1/(2 sigma) - epsilon sigma).
    """

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * sigma), epsilon * sigma
        return float(ndtr(a - b) - math.exp(epsilon + log_ndtr(-a - b)) - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12))


@pytest.mark.parametrize("sigma", [0.7, 3.0, 60.0])
@pytest.mark.parametrize("steps", [1, 400, 20_000])
def test_without_sampling_every_accountant_keeps_to_the_closed_form(
    sigma: float, steps: int
) -> None:
    for delta in (1e-5, 1e-8):
        exact = analytic_gaussian(sigma / math.sqrt(steps), delta)
        if exact > 150:
            continue
        found = epsilons(event_of([Mechanism(1.0, sigma, steps)]), delta)
        assert found.pld is not None
        assert found.prv is not None
        assert found.pld == pytest.approx(exact, abs=3e-4)
        assert exact <= found.prv <= exact + 0.0155
        assert found.rdp >= exact


def test_persons_and_silos_have_their_golden_figures() -> None:
    assert person_epsilon(PLAN, 2) == pytest.approx(9.03, abs=0.01)
    costs = [across_silos([PLAN] * silos) for silos in (1, 2)]
    assert costs == pytest.approx([4.01, 5.77], abs=0.005)
    assert person_epsilon(PLAN, 2) > costs[1]  # one silo draws both into one clip less


def cost(q: float = 0.02, sigma: float = 1.0, steps: int = 200) -> tuple[float, ...]:
    found = epsilons(event_of([Mechanism(q, sigma, steps)]), 1e-6)
    assert found.pld is not None
    assert found.prv is not None
    return found.pld, found.prv, found.rdp, found.published


@pytest.mark.parametrize(
    ("name", "rising"),
    [
        ("q", [0.001, 0.01, 0.0101, 0.39, 0.41, 1.0]),
        ("sigma", [30.0, 1.0, 0.999, 0.6]),
        ("steps", [1, 2, 100, 101, 3000]),
    ],
)
def test_more_use_and_less_noise_never_cost_less(name: str, rising: list) -> None:
    costs = [cost(**{name: value}) for value in rising]
    for before, after in itertools.pairwise(costs):
        assert all(b <= a + 1e-9 for b, a in zip(before, after, strict=True))


def test_the_order_of_composition_changes_nothing() -> None:
    parts = [
        event_of([Mechanism(q, sigma, 1)])
        for q, sigma in ((0.05, 1.3), (0.02, 0.9), (1.0, 20.0))
        for _ in range(20)
    ]
    expected = epsilons(dpa.ComposedDpEvent(parts), 1e-6)
    for seed in range(2):
        random.Random(seed).shuffle(parts)
        nested = [dpa.ComposedDpEvent(parts[:seed]), dpa.ComposedDpEvent(parts[seed:])]
        assert epsilons(dpa.ComposedDpEvent(nested), 1e-6) == expected


@pytest.mark.parametrize("delta", [1e-5, 1e-8])
@pytest.mark.parametrize(
    "parts",
    [
        (FIRST, SECOND),
        (FIRST, Mechanism(0.3, 8.0, 24)),
        (Mechanism(1e-4, 4.0, 100_000), Mechanism(0.5, 1.0, 1)),
    ],
)
def test_two_charters_cost_the_same_by_pld_and_prv(
    parts: tuple[Mechanism, ...], delta: float
) -> None:
    together = epsilons(event_of(parts), delta)
    assert together.pld is not None
    assert together.prv is not None
    assert 0.008 <= together.prv - together.pld <= 0.016
    alone = [epsilons(event_of([part]), delta).published for part in parts]
    assert max(alone) < together.published < sum(alone)


@pytest.mark.parametrize(
    ("parts", "delta"),
    [([FIRST, SECOND], 1e-6), ([FIRST, FIRST, Mechanism(0.3, 8.0, 24)], 1e-5)],
)
def test_opacus_says_the_same_of_compositions(
    parts: list[Mechanism], delta: float
) -> None:
    accountants = pytest.importorskip(
        "opacus.accountants", reason="Opacus isn't installed: no third opinion"
    )
    theirs = accountants.PRVAccountant()
    theirs.history = [(sigma, q, steps) for q, sigma, steps in parts]
    found = epsilons(event_of(parts), delta)
    assert found.prv == pytest.approx(theirs.get_epsilon(delta), abs=1e-3)
    assert found.published - found.pld == pytest.approx(0.010, abs=0.003)
    assert mechanisms_of(event_of(parts)) == tuple(
        sorted(Mechanism(q, s, n * parts.count((q, s, n))) for q, s, n in set(parts))
    )
