"""The evaluation's coordinate: through the encoding and a sum, back to a mean."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedit_secure.errors import ConfigError
from fedit_secure.federation.evaluation import (
    Evaluation,
    PlannedEvaluation,
    check_rows,
    coordinate,
    plan_of,
    reading,
    span,
)
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.plan import evaluation_event
from fedit_secure.secagg.fixed_point import encode

TERMS = Evaluation(clip=10.0, noise_multiplier=5.0)


def plans(*held_out: int | None) -> list[EvaluationPlan | None]:
    return [plan_of(TERMS, count) for count in held_out]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.floats(-5, 5), st.integers(20, 400)),
        min_size=3,
        max_size=12,
    ),
    st.sampled_from([24, 32]),
    st.floats(1e-6, 1e3),
)
def test_the_sum_says_the_weighted_mean_of_the_silos_figures(
    silos: list[tuple[int, float, int]], ring_bits: int, bound: float
) -> None:
    weights = [weight for weight, _, _ in silos]
    held_out = [count for _, _, count in silos]
    params = release_sizes(
        len(silos), length=3, bound=bound, ring_bits=ring_bits, weights=weights
    )
    full, total = span(TERMS, held_out), 0
    for silo, (_, figure, _) in enumerate(silos):
        update = np.zeros(3, np.float32)
        update[:2] = bound * 0.999, -bound * 0.999
        update[-1] = coordinate(figure, full, params.bound)
        encoded = encode(update, params, silo, bytes([silo]) * 32)
        # Whatever the figure is, the update beside it isn't scaled.
        assert encoded.scale == 1.0
        total += int(encoded.values[-1])
    read = reading(total, params, range(len(silos)), plans(*held_out), full)
    assert read is not None
    due = 5.0 + sum(w * f for w, f, _ in silos) / sum(weights)
    # Each silo rounds by less than a step.
    step = full * max(weights) / (params.magnitude * sum(weights))
    assert abs(read.nll - due) <= len(silos) * step + 1e-5
    assert read.silos == len(silos)


def test_a_figure_beyond_the_span_is_cut_and_never_the_update() -> None:
    full = span(TERMS, [100, 30, None])
    # The most that clipped units say, and eight standard deviations of the noisiest silo.
    noisiest = plan_of(TERMS, 30)
    assert noisiest is not None
    assert full == 5.0 + 8 * noisiest.deviation
    for figure in (1e30, math.inf, -1e30, full, -full):
        for bound in (1e-30, 0.1, 3.0, 1e30):
            assert abs(float(coordinate(figure, full, bound))) <= bound


def test_silos_that_dont_evaluate_have_no_part_in_the_mean() -> None:
    params = release_sizes(4, length=2, bound=1.0, weights=[1, 1, 3, 1])
    held_out = (50, None, 100, 25)
    full = span(TERMS, held_out)
    own = plans(*held_out)
    read = reading(0, params, [1, 2, 3], own, full)
    assert read is not None
    assert (read.nll, read.silos) == (5.0, 2)
    due = math.hypot(3 * own[2].deviation, own[3].deviation) / 4  # type: ignore[union-attr]
    assert read.deviation == pytest.approx(due)
    assert reading(0, params, [1], own, full) is None


def test_the_noise_of_a_reading_is_the_noise_in_it() -> None:
    """Drawn a thousand times, as silos do: the deviation that is told is there."""
    params = release_sizes(4, length=1, bound=0.1, weights=[1, 2, 1, 1])
    held_out, random = (40, 80, 60, 50), np.random.default_rng(3)
    own, full = plans(*held_out), span(TERMS, held_out)
    reads = []
    for draw in range(1000):
        total = 0
        for silo, plan in enumerate(own):
            assert plan is not None
            figure = random.normal(-2.0, plan.deviation)
            update = np.array([coordinate(figure, full, 0.1)])
            key = draw.to_bytes(31, "big") + bytes([silo])
            total += int(encode(update, params, silo, key).values[0])
        reads.append(reading(total, params, range(4), own, full))
    nlls = np.array([read.nll for read in reads if read])
    assert reads[0] is not None
    # 4.5 standard errors of a mean and of a deviation of 1,000 draws.
    assert abs(nlls.mean() - 3.0) < 4.5 * reads[0].deviation / 1000**0.5
    assert abs(nlls.std() / reads[0].deviation - 1) < 4.5 / 2000**0.5
    assert str(replace(reads[0], nll=3.0)).startswith("3.000 ± ")


@pytest.mark.parametrize(
    ("terms", "held_out", "private", "wrong"),
    [
        (None, [None, 5], True, "evaluates nothing"),
        (TERMS, [None, None], True, "no silo has held_out"),
        (TERMS, [None, 5], False, "all silos evaluate or none"),
    ],
)
def test_rows_go_with_the_charters_evaluation(
    terms: Evaluation | None, held_out: list[int | None], private: bool, wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong):
        check_rows(terms, held_out, private=private)
    check_rows(TERMS, [None, 5], private=True)
    check_rows(TERMS, [5, 5], private=False)
    check_rows(None, [None, None], private=False)


def test_a_plan_without_a_noise_multiplier_takes_a_share_of_epsilon() -> None:
    planned = PlannedEvaluation(epsilon_share=0.25)
    for epsilon in (8.0, 1.0):
        noise = planned.terms(epsilon, 1e-6, 21).noise_multiplier
        alone = epsilons(evaluation_event(noise, 21), 1e-6).published
        # The least noise that keeps to the share, to the calibration's four decimals.
        assert 0.24 * epsilon < alone <= 0.25 * epsilon
    assert planned.terms(None, None, 21).noise_multiplier == 0
    named = PlannedEvaluation(noise_multiplier=3.0)
    assert named.terms(8.0, 1e-6, 21).noise_multiplier == 3.0
    with pytest.raises(ConfigError, match=r"'evaluation\.epsilon_share': epsilon is"):
        PlannedEvaluation(epsilon_share=1e-9).terms(0.1, 1e-6, 21)
