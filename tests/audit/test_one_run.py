"""What right guesses prove: against closed forms, worst mechanisms and a linear program."""

from __future__ import annotations

import math

import dp_accounting as dpa
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom, norm

from fedit_secure.audit.canary.one_run import (
    approximate_inverse,
    epsilon_lower_bound,
    epsilon_p_value,
    gaussian_epsilon_lower_bound,
    gaussian_inverse,
    gaussian_p_value,
    tradeoff_p_value,
)


@pytest.mark.parametrize(
    ("canaries", "bound"),
    [(10, 1.05), (30, 2.25), (100, 3.49), (300, 4.59), (1000, 5.78), (10_000, 7.83)],
)
def test_guesses_that_are_all_right_prove_no_more_than_this(canaries, bound) -> None:
    """Golden values: computed from the paper's formula, 95 %, delta 1e-5."""
    found = epsilon_lower_bound(canaries, canaries, canaries, 1e-5)
    assert found == pytest.approx(bound, abs=0.006)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0, 5.0])
def test_without_delta_it_is_a_binomial_tail(epsilon: float) -> None:
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    for correct in (0, 1, 40, 60):
        p = epsilon_p_value(100, 60, correct, epsilon, 0.0)
        assert p == pytest.approx(binom.sf(correct - 1, 60, q), rel=1e-12)


def test_delta_adds_the_papers_term() -> None:
    m, r, v, epsilon, delta = 300, 80, 70, 1.2, 1e-4
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    beta = sum(binom.pmf(k, r, q) for k in range(v, r + 1))
    alpha = max(
        sum(binom.pmf(k, r, q) for k in range(v - i, v)) / i for i in range(1, v + 1)
    )
    expected = beta + 2 * m * delta * alpha
    assert epsilon_p_value(m, r, v, epsilon, delta) == pytest.approx(expected)


def test_the_bound_is_too_high_as_rarely_as_it_says() -> None:
    """Randomised response at epsilon is the worst mechanism, so it is nearly that often."""
    epsilon, m = 1.5, 400
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    rights = np.random.default_rng(0).binomial(m, q, 2000)
    bounds = {v: epsilon_lower_bound(m, m, int(v), 0.0) for v in set(rights.tolist())}
    share = float(np.mean([bounds[v] > epsilon for v in rights.tolist()]))
    assert 0.02 < share <= 0.06


@pytest.mark.parametrize("m", [20, 200])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_a_trade_off_bound_holds_for_randomised_response(
    m: int, epsilon: float
) -> None:
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    inverse = approximate_inverse(epsilon, 0.0)
    for v in range(0, m + 1, m // 10):
        p = tradeoff_p_value(m, m, v, inverse)
        assert p >= min(1.0, binom.sf(v - 1, m, q)) * (1 - 1e-9)


@pytest.mark.parametrize("mu", [0.3, 2 / 3, 2.0])
def test_a_trade_off_bound_holds_for_gaussian_noise(mu: float) -> None:
    """Each canary has a coordinate of its own, and is guessed in where it is above 1/2."""
    m, right = 200, norm.cdf(mu / 2)
    for v in range(0, m + 1, 10):
        p = gaussian_p_value(m, m, v, 1 / mu)
        assert p >= binom.sf(v - 1, m, right) * (1 - 1e-9)


@pytest.mark.parametrize(("r", "v"), [(6, 6), (6, 5), (12, 9), (12, 12), (12, 4)])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 0.0), (1.0, 0.0), (1.0, 0.01)])
def test_the_recursion_finds_the_largest_tail_that_the_inequalities_allow(
    r: int, v: int, epsilon: float, delta: float
) -> None:
    """For (epsilon, delta)-DP they are linear: the same maximum by a linear program."""
    m, grows = 15, math.exp(epsilon)
    rows, limits = [], []
    for i in range(r):
        right = np.array([k / m if k > i else 0.0 for k in range(r + 1)])
        wrong = np.array([(r - k) / m if k >= i else 0.0 for k in range(r + 1)])
        # right <= 1 - f(wrong), the lower of two lines.
        rows += [right - grows * wrong, right - wrong / grows]
        limits += [delta, 1 - (1 - delta) / grows]
    tail = np.array([-1.0 if k >= v else 0.0 for k in range(r + 1)])
    best = linprog(tail, rows, limits, np.ones((1, r + 1)), [1.0], bounds=(0, 1))
    found = tradeoff_p_value(m, r, v, approximate_inverse(epsilon, delta))
    assert found == pytest.approx(-best.fun, rel=1e-6)


@pytest.mark.parametrize("mu", [0.4, 1.5])
def test_the_inverse_undoes_the_gaussian_trade_off(mu: float) -> None:
    inverse = gaussian_inverse(mu)
    for y in (1e-9, 0.01, 0.4, 0.9):
        f = norm.cdf(norm.ppf(1 - y) - mu)
        assert inverse(1 - f) == pytest.approx(y, rel=1e-6)
    assert inverse(1.0) == 1.0


def test_the_gaussian_bound_is_where_the_guesses_are_as_unlikely_as_asked() -> None:
    m, r, v, delta = 2000, 400, 373, 1e-5
    epsilon = gaussian_epsilon_lower_bound(m, r, v, delta)
    sigma = dpa.get_sigma_gaussian(epsilon, delta)
    assert gaussian_p_value(m, r, v, sigma) == pytest.approx(0.05, rel=1e-3)
    # One release of Gaussian noise promises more than a single epsilon does.
    assert epsilon > epsilon_lower_bound(m, r, v, delta) > 0


def test_guesses_by_chance_prove_nothing() -> None:
    assert epsilon_lower_bound(1000, 200, 100, 1e-5) == 0.0
    assert gaussian_epsilon_lower_bound(1000, 200, 100, 1e-5) == 0.0
    assert gaussian_p_value(1000, 200, 0, 1.5) == 1.0


def test_more_right_guesses_are_less_likely() -> None:
    p = [gaussian_p_value(500, 100, v, 1.5) for v in range(60, 101, 5)]
    assert p == sorted(p, reverse=True)
    assert p[-1] < 1e-4


@pytest.mark.parametrize("game", [(10, 11, 3), (10, 5, 6), (10, 5, -1), (0, 0, 0)])
def test_no_such_game(game) -> None:
    with pytest.raises(ValueError, match="no such game"):
        epsilon_p_value(*game, 1.0, 1e-5)
    with pytest.raises(ValueError, match="no such game"):
        gaussian_p_value(*game, 1.0)
    with pytest.raises(ValueError, match="promise nothing"):
        epsilon_p_value(10, 5, 3, -1.0, 1e-5)
