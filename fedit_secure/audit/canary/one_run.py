"""What right guesses about canaries prove: lower bounds on epsilon from a single run.

m canaries are each put in or left out by a fair coin. Whoever sees only the output
guesses r of the m coins, r fixed beforehand, and gets v right. If the mechanism keeps its
promise, v can't be large, and how large bounds what it keeps.

- Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846): against an epsilon at a delta,
  whatever the mechanism is.
- Mahloujifar, Melis and Chaudhuri 2024 (arXiv 2410.22235): against a trade-off function.
  Gaussian noise promises a whole one, which says more than one of its points.

Both hold at every sample size, and both are one-sided: a small bound says nothing. Pure
functions of numbers; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

CONFIDENCE = 0.95
"""Of the lower bounds that are stated: they are too high in at most one run of 20."""

_LEAST_P = 1e-300
_MOST_EPSILON = 60.0
_MOST_MU = 40.0
_HALVINGS = 60

Inverse = Callable[[float], float]
"""For a trade-off function f: the least y with 1 - f(y) >= x, non-decreasing in x."""


def epsilon_p_value(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """How likely so many right guesses are, at most, under (epsilon, delta)-DP.

    With q = e^epsilon / (1 + e^epsilon), X binomial of `guesses` tries at q, and
    beta = P[X >= correct]: at most beta + 2 m delta max_i (P[X >= correct - i] - beta) / i.

    Raises ValueError unless 0 <= correct <= guesses <= canaries, for a negative epsilon
    and for a delta outside of 0..1.
    """
    import numpy as np
    from scipy.stats import binom

    _require(canaries, guesses, correct)
    if epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(f"epsilon {epsilon} and delta {delta} promise nothing")
    q = 1.0 / (1.0 + math.exp(-epsilon))
    beta = float(binom.sf(correct - 1, guesses, q))
    if not correct or not delta:
        return min(1.0, beta)
    fewer = np.arange(1, correct + 1)
    gained = binom.sf(correct - fewer - 1, guesses, q) - beta
    alpha = float(np.max(gained / fewer))
    return min(1.0, beta + 2.0 * canaries * delta * alpha)


def epsilon_lower_bound(
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    confidence: float = CONFIDENCE,
) -> float:
    """The largest epsilon that the guesses refute at `confidence`; 0 if they refute none."""

    def refuted(epsilon: float) -> bool:
        p = epsilon_p_value(canaries, guesses, correct, epsilon, delta)
        return p <= 1.0 - confidence

    return _largest(refuted, _MOST_EPSILON)


def tradeoff_p_value(
    canaries: int, guesses: int, correct: int, inverse: Inverse
) -> float:
    """How likely so many right guesses are, at most, if f bounds the mechanism.

    Why. Let p_k be the chance of exactly k right guesses, and take a canary at random.
    Turning its coin round turns a right guess about it into a wrong one and leaves the
    output to the mechanism's promise. So for every i, with F = 1 - f, which is concave,
    and sums over k >= i,

        sum (k+1) p_(k+1) / m  <=  F( sum (r-k) p_k / m ).

    Call the left side R(i+1) and what is inside H(i). Then H(i) >= inverse(R(i+1)), and
    R(i) + H(i) = r P[k >= i] / m. Written in the tails P[k >= i], each tail is bounded
    from below by a non-decreasing function of the later ones. If P[k >= v] were t, all of
    it at k = v makes these bounds smallest; going down from there, i = v-1 .. 0, they end
    in a bound on P[k >= 0]. Where it exceeds 1, t is refuted. The p-value is the least t.

    Args:
        canaries: m, each in or out by a fair coin.
        guesses: r, fixed beforehand.
        correct: v.
        inverse: of the promised trade-off function, symmetric in its two sides.

    Raises:
        ValueError: unless 0 <= correct <= guesses <= canaries.
    """
    _require(canaries, guesses, correct)
    low, high = math.log(_LEAST_P), 0.0
    if not _refutes(canaries, guesses, correct, 1.0, inverse):
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _refutes(canaries, guesses, correct, math.exp(middle), inverse):
            high = middle
        else:
            low = middle
    return math.exp(high)


def _refutes(m: int, r: int, v: int, tail: float, inverse: Inverse) -> bool:
    right, wrong = tail * v / m, tail * (r - v) / m
    for i in range(v - 1, -1, -1):
        before = wrong
        wrong = max(wrong, inverse(right))
        right += i / (r - i) * (wrong - before)
        if right + wrong > r / m:
            return True
    return False


def gaussian_inverse(mu: float) -> Inverse:
    """Of the trade-off function of N(0, 1) against N(mu, 1): Gaussian noise at 1 / mu."""
    from scipy.special import ndtr, ndtri

    def inverse(x: float) -> float:
        return float(ndtr(ndtri(x) - mu)) if x < 1.0 else 1.0

    return inverse


def approximate_inverse(epsilon: float, delta: float) -> Inverse:
    """Of the trade-off function of (epsilon, delta)-DP."""
    grows = math.exp(epsilon)

    def inverse(x: float) -> float:
        return max(0.0, (x - delta) / grows, 1.0 - delta - grows * (1.0 - x))

    return inverse


def gaussian_p_value(canaries: int, guesses: int, correct: int, sigma: float) -> float:
    """`tradeoff_p_value` against one Gaussian release of noise multiplier `sigma`."""
    return tradeoff_p_value(canaries, guesses, correct, gaussian_inverse(1.0 / sigma))


def gaussian_epsilon_lower_bound(
    canaries: int,
    guesses: int,
    correct: int,
    delta: float,
    confidence: float = CONFIDENCE,
) -> float:
    """The epsilon at `delta` of the noisiest Gaussian that the guesses refute; 0 if none.

    It bounds the mechanism's own epsilon if that adds Gaussian noise, of whatever size:
    for other noise only `epsilon_lower_bound` does.
    """
    from dp_accounting import get_epsilon_gaussian

    def refuted(mu: float) -> bool:
        inverse = gaussian_inverse(mu)
        return _refutes(canaries, guesses, correct, 1.0 - confidence, inverse)

    _require(canaries, guesses, correct)
    mu = _largest(refuted, _MOST_MU)
    return float(get_epsilon_gaussian(1.0 / mu, delta)) if mu > 0 else 0.0


def _largest(refuted: Callable[[float], bool], most: float) -> float:
    """The largest x in 0..most that is refuted, rounded down; those below it are too."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _require(canaries: int, guesses: int, correct: int) -> None:
    if not 0 <= correct <= guesses <= canaries or not canaries:
        raise ValueError(
            f"{correct} right of {guesses} guesses about {canaries} canaries: no such game"
        )
