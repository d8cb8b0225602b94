"""Each detector as a test on numbers: its false alarms, and what it must not let pass."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest

from fedit_secure.audit.canary import detections as d
from fedit_secure.audit.canary.detections import Detection

STEPS, RECORDS, RATE = 64, 512, 0.25


def uniform(p_values: list[float]) -> bool:
    return bool(kstest(p_values, "uniform").pvalue > 1e-4)


# ----------------------------------------------------------------------------- canary


def guessed(sigma: float, seed: int = 0) -> Detection:
    random = np.random.default_rng(seed)
    there = random.random(2000) < 0.5
    scores = there + sigma * random.normal(size=2000)
    return d.canary(there, scores, guesses=400, sigma=1.5, delta=1e-5)


def test_guesses_about_right_noise_pass_and_about_a_quarter_of_it_dont() -> None:
    assert not any(guessed(1.5, seed).flags for seed in range(20))
    assert all(guessed(1.5 / 4, seed).flags for seed in range(5))
    right = guessed(1.5)
    assert 0 < right.figures["epsilon_lower_bound"] < 2.75
    assert right.figures["guesses"] == 400


def test_perfect_guesses_are_counted_right() -> None:
    there = np.array([True, False] * 500)
    found = d.canary(there, there.astype(float), guesses=200, sigma=1.5, delta=1e-5)
    assert found.figures["correct"] == 200
    wrong = d.canary(there, 1.0 - there, guesses=200, sigma=1.5, delta=1e-5)
    assert wrong.figures["correct"] == 0
    assert not wrong.flags


# -------------------------------------------------------------------------- noise-scale


def scaled(sigma: float, seed: int = 0) -> Detection:
    random = np.random.default_rng(seed)
    noise = random.normal(0, sigma, (11, 3000))
    return d.noise_scale(noise, 3000, sigma=1.5, coordinates=4096)


def test_noise_of_the_planned_scale_passes() -> None:
    found = [scaled(1.5 * (1 + 1e-4) * (1 + 2**-14), seed) for seed in range(200)]
    assert not any(one.flags for one in found)
    assert uniform([one.figures["p"] for one in found])
    assert found[0].figures["sigma_measured"] == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.95, 1.05])
def test_noise_of_another_scale_is_flagged(share: float) -> None:
    assert scaled(1.5 * share).flags


# -------------------------------------------------------------------------- noise-reuse


def test_independent_noise_passes_as_often_as_it_should() -> None:
    found = []
    for seed in range(300):
        noise = np.random.default_rng(seed).normal(size=(2, 40))
        found.append(d.noise_reuse([(noise, 40)]))
    assert not any(one.flags for one in found)
    assert uniform([one.figures["p"] for one in found])


@pytest.mark.parametrize("share", [1.0, 0.5, -1.0])
def test_noise_that_two_steps_share_in_part_is_flagged(share: float) -> None:
    random = np.random.default_rng(1)
    steps, attempts = random.normal(size=(6, 2000)), random.normal(size=(2, 900))
    assert not d.noise_reuse([(steps, 2000), (attempts, 900)]).flags
    mixed = attempts.copy()
    mixed[1] = share * attempts[0] + (1 - abs(share)) * attempts[1]
    found = d.noise_reuse([(steps, 2000), (mixed, 900)])
    assert found.flags
    assert found.figures["pairs"] == 16


def test_no_noise_at_all_is_left_to_the_other_detector() -> None:
    assert not d.noise_reuse([(np.zeros((2, 50)), 50)]).flags


# ----------------------------------------------------------------------------- sampling


def poisson(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((STEPS, RECORDS)) < RATE


def test_poisson_batches_pass_as_often_as_they_should() -> None:
    found = [d.sampling(poisson(seed), rate=RATE) for seed in range(400)]
    assert not any(one.flags for one in found)
    # Four two-sided tests share the alarms, so p is at most 5 % as often as that.
    assert np.mean([one.figures["p"] <= 0.05 for one in found]) < 0.09
    overlaps = [one.figures["overlap"] for one in found]
    planned = found[0].figures["overlap_planned"]
    assert np.mean(overlaps) == pytest.approx(planned, rel=0.005)


def dealt(seed: int) -> np.ndarray:
    """A shuffled deck, dealt in batches of one size."""
    random = np.random.default_rng(seed)
    batches = np.zeros((STEPS, RECORDS), bool)
    for step in range(STEPS):
        if step % 4 == 0:
            deck = random.permutation(RECORDS).reshape(4, -1)
        batches[step, deck[step % 4]] = True
    return batches


def fixed_size(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    size = int(RECORDS * RATE)
    batches = np.zeros((STEPS, RECORDS), bool)
    for batch in batches:
        batch[random.choice(RECORDS, size, replace=False)] = True
    return batches


def repeated(seed: int) -> np.ndarray:
    """The same coins in every other step."""
    return np.repeat(poisson(seed)[: STEPS // 2], 2, axis=0)


def favoured(seed: int) -> np.ndarray:
    """One half of the records at twice the other half's rate."""
    rates = np.repeat([RATE * 4 / 3, RATE * 2 / 3], RECORDS // 2)
    return np.random.default_rng(seed).random((STEPS, RECORDS)) < rates


def bursts(seed: int) -> np.ndarray:
    """Batches large and small: one coin more for all records of a step."""
    random = np.random.default_rng(seed)
    rates = RATE + 0.1 * random.choice([-1, 1], (STEPS, 1))
    return random.random((STEPS, RECORDS)) < rates


def too_many(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((STEPS, RECORDS)) < RATE * 1.1


@pytest.mark.parametrize(
    "batches", [dealt, fixed_size, repeated, favoured, bursts, too_many]
)
def test_batches_that_are_not_poisson_are_flagged(batches) -> None:
    assert all(d.sampling(batches(seed), rate=RATE).flags for seed in range(3))


# ----------------------------------------------------- clip, step-count, intent, verdicts


@pytest.mark.parametrize(
    ("moved", "flags"), [(1.0, False), (1.0001, False), (1.001, True), (0.9, True)]
)
def test_a_unit_moves_a_sum_by_the_clip(moved: float, flags: bool) -> None:
    found = d.clip({"x": 1.0, "y": moved}, 8192, least={"x": 1.0, "y": 1.0})
    assert found.flags is flags


def test_less_than_the_clip_is_right_where_nothing_is_due() -> None:
    assert not d.clip({"x": 0.2}, 8192, least={"x": 0.0}).flags
    assert d.clip({"x": float("nan")}, 8192, least={"x": 0.0}).flags


@pytest.mark.parametrize(
    ("done", "counts", "flags"),
    [
        (5.01, {"told": 5, "charged": 5}, False),
        (5.98, {"told": 5, "charged": 5}, True),
        (5.0, {"told": 6, "charged": 5}, True),
        (5.0, {"told": 5, "charged": 4}, True),
        (float("nan"), {"told": 5}, True),
    ],
)
def test_all_steps_are_as_many(done, counts, flags) -> None:
    assert d.step_count(done, counts, 5).flags is flags


RIGHT = {"charges": 1, "sampled_after": 1e-4, "on_disk": True, "refusal_held": True}


@pytest.mark.parametrize(
    "change",
    [
        {"charges": 0},
        {"charges": 2},
        {"sampled_after": -1.9},
        {"sampled_after": None},
        {"on_disk": False},
        {"refusal_held": False},
    ],
)
def test_the_charge_comes_first(change) -> None:
    assert not d.intent(**RIGHT).flags
    assert d.intent(**RIGHT | change).flags


def test_a_verdict_is_of_a_detector() -> None:
    assert Detection("clip", True).verdict == "flags"
    assert Detection("clip", False).verdict == "passes"
    with pytest.raises(ValueError, match="no detector 'klip'"):
        Detection("klip", False)
