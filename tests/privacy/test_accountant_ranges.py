"""Whatever the parameters: an answer in bounded time and memory, never below the truth.

The truth is bounded from below without any accountant: by one test of the composition,
on the sum of all that was released. Under "without the record" it is N(0, T sigma^2),
under "with it" N(K, T sigma^2) for a binomial K. For one step, and without sampling, that
test is the best there is, and the bound is the truth.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import dp_accounting as dpa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr
from scipy.stats import binom

from fedit_secure.privacy.accountant import (
    Epsilons,
    PrivacyAccountingError,
    epsilons,
    spent_epsilons,
)
from fedit_secure.privacy.mechanisms import Mechanism, event_of

MEMORY = 2 << 30  # bytes of address space: interpreter, libraries and accountants

HARD = [
    (Mechanism(0.05, 0.05, 1), 1e-6),
    (Mechanism(1.0, 0.05, 10**7), 1e-12),
    (Mechanism(1e-6, 0.05, 10**7), 1e-12),
    (Mechanism(1e-6, 0.05, 1), 1e-6),
    (Mechanism(0.001, 50.0, 10**7), 1e-8),
    (Mechanism(0.1, 1e4, 10**7), 1e-10),
    (Mechanism(0.01, 100.0, 10**6), 1e-9),
    (Mechanism(0.5, 20.0, 10), 1e-12),
    (Mechanism(0.5, 1.3, 3000), 0.1),
    (Mechanism(0.05, 1.2, 300), 1e-12),
    (Mechanism(1e-6, 1e4, 1), 1e-6),
    (Mechanism(1 - 1e-12, 1.0, 10), 1e-6),
]


def least_epsilon(mechanism: Mechanism, delta: float) -> float:
    """A lower bound on epsilon at delta: max over t of log((P(S > t) - delta) / Q(S > t)).

    The binomial's values are put together in blocks, each at its least: a lower bound.
    """
    q, sigma, steps = mechanism
    mean, deviation = steps * q, math.sqrt(steps * q * (1 - q))
    low = max(0, math.floor(mean - 9 * deviation))
    high = min(steps, math.ceil(mean + 9 * deviation) + 20)
    edges = np.unique(np.linspace(low, high + 1, 400).astype(int))
    masses = np.diff(binom.cdf(edges - 1, steps, q))
    spread = sigma * math.sqrt(steps)
    t = np.linspace(-5 * spread, 12 * spread + high, 400)[:, None]
    with_it = np.exp(log_ndtr((edges[:-1] - t) / spread)) @ masses
    without = log_ndtr(-t[:, 0] / spread)
    above = with_it - delta - 1e-14  # less than it is: rounding must not count
    seen = above > 0
    return max(0.0, 0.0, *(np.log(above[seen]) - without[seen]))


def bounds_the_truth(mechanism: Mechanism, delta: float) -> Epsilons:
    """What is stated of it as spent; asserted: never too low, whoever answered."""
    least = least_epsilon(mechanism, delta)
    spent = spent_epsilons(event_of([mechanism]), delta)
    answered = [f for f in (spent.prv, spent.rdp) if f is not None]
    assert min(answered) >= least - 1e-7
    assert 0 <= spent.published < math.inf
    planned = planned_or_refusal(mechanism, delta)
    assert planned == spent if spent.agreed else isinstance(planned, str)
    return spent


def planned_or_refusal(mechanism: Mechanism, delta: float) -> Epsilons | str:
    """What a plan of it costs, or the one sentence that refuses it."""
    try:
        return epsilons(event_of([mechanism]), delta)
    except PrivacyAccountingError as refused:
        sentence = str(refused)
    assert sentence
    assert "\n" not in sentence
    return sentence


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    rate=st.floats(-6, 0).map(lambda x: 10**x),
    sigma=st.floats(math.log10(0.05), 4).map(lambda x: 10**x),
    steps=st.floats(0, 7).map(lambda x: round(10**x)),
    delta=st.floats(-12, -1).map(lambda x: 10**x),
)
def test_any_event_has_a_figure_that_is_never_below_the_truth(
    rate: float, sigma: float, steps: int, delta: float
) -> None:
    bounds_the_truth(Mechanism(rate, sigma, steps), delta)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("mechanism", "delta"), HARD)
def test_hard_events_have_a_figure(mechanism: Mechanism, delta: float) -> None:
    bounds_the_truth(mechanism, delta)


def test_the_oracle_is_the_closed_form_without_sampling() -> None:
    for sigma, steps, delta in ((1.0, 1, 1e-6), (10.0, 50, 1e-5), (200.0, 10**4, 1e-9)):
        exact = dpa.get_epsilon_gaussian(sigma / math.sqrt(steps), delta)
        found = least_epsilon(Mechanism(1.0, sigma, steps), delta)
        assert exact - 0.01 < found <= exact + 1e-9


@pytest.mark.timeout(120)
def test_hard_events_fit_into_little_memory() -> None:
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
from fedit_secure.privacy.accountant import spent_epsilons
from fedit_secure.privacy.mechanisms import Mechanism, event_of
for mechanism, delta in eval(sys.argv[2]):
    print(spent_epsilons(event_of([mechanism]), delta).published)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(MEMORY), repr(HARD)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(found.stdout.split()) == len(HARD)
    assert all(math.isfinite(float(line)) for line in found.stdout.split())


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(0.5, 1e-200, 1),
        Mechanism(1.0, 1e-200, 10**15),
        Mechanism(1e-300, 1e300, 10**15),
        Mechanism(1.0, 1e300, 1),
        Mechanism(1 - 1e-16, 1e-9, 2**53 - 1),
    ],
)
def test_what_float64_cannot_hold_is_answered_too(mechanism: Mechanism) -> None:
    spent = spent_epsilons(event_of([mechanism]), 1e-6)
    assert spent.published >= 0
    planned = planned_or_refusal(mechanism, 1e-6)
    assert planned == spent if spent.agreed else isinstance(planned, str)


def test_without_agreement_the_largest_figure_is_published() -> None:
    assert Epsilons(4.0, 4.01, 4.4).published == 4.01
    for found in (
        Epsilons(None, None, 4.4),
        Epsilons(None, 4.01, 4.4),
        Epsilons(4.0, 4.03, 4.4),
        Epsilons(4.0, None, 4.4),
    ):
        assert not found.agreed
        assert found.published == 4.4
    assert Epsilons(4.5, 4.51, 4.4).published == 4.51  # RDP below PLD: a bug of one
    assert not Epsilons(4.5, 4.51, 4.4).agreed
    assert Epsilons.same(math.inf).agreed
    assert Epsilons.same(0.0).agreed


def test_what_is_spent_has_a_figure_where_a_plan_has_none() -> None:
    beyond = event_of([Mechanism(0.2, 1.0, 20_000)])
    with pytest.raises(PrivacyAccountingError, match="more noise or fewer steps"):
        epsilons(beyond, 1e-5)
    spent = spent_epsilons(beyond, 1e-5)
    assert (spent.pld, spent.prv) == (None, None)
    assert spent.published == spent.rdp == pytest.approx(1339.57, abs=0.01)
