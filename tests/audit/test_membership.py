"""Areas, rates and implied epsilons against closed forms, slow counts and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm

from fedit_secure.audit.leakage.membership import (
    ATTACKS,
    ERROR,
    area_interval,
    implied_epsilon,
    membership,
    most_area,
    most_found,
    noticeable_area,
    rate_at,
    roc_area,
)
from fedit_secure.audit.leakage.record_scores import RecordScores, TokenScores


def scores(mean, size, seed):
    return np.random.default_rng(seed).normal(mean, 1, size)


def record(adapter, base):
    """A record whose four tokens have these mean log-probabilities."""
    nothing = np.zeros(4, np.bool_)
    spread = np.array([-0.3, -0.1, 0.1, 0.3])
    return RecordScores(
        tokens=np.arange(4),
        text_tokens=3,
        adapter=TokenScores(adapter + spread, nothing),
        base=TokenScores(base + spread, nothing),
    )


def units(adapter, base):
    return [[record(a, b)] for a, b in zip(adapter, base, strict=True)]


# ------------------------------------------------------------------------------- areas


def test_area_counts_pairs_and_halves_ties():
    random = np.random.default_rng(1)
    members, others = random.integers(0, 6, 30) * 1.0, random.integers(0, 5, 20) * 1.0
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert roc_area(members, others) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("members", "others"), [(40, 40), (30, 75), (200, 11)])
def test_interval_holds_one_half_exactly_where_mann_and_whitneys_test_does(
    members, others
):
    """Its null variance is (m + n + 1) / 12mn."""
    deviation = math.sqrt((members + others + 1) / (12 * members * others))
    reach = norm.ppf(0.975) * deviation
    assert noticeable_area(members, others, 0.95) == pytest.approx(0.5 + reach)
    for area, held in ((0.5 + 0.99 * reach, True), (0.5 + 1.01 * reach, False)):
        low, high = area_interval(area, members, others, 0.95)
        assert (low <= 0.5) is held
        mirrored = area_interval(1 - area, members, others, 0.95)
        assert mirrored == pytest.approx((1 - high, 1 - low))


def test_interval_of_a_perfect_score_is_no_point():
    """(1 - t)^2 = z^2 V(t) at the lower end, and more records bring it nearer."""
    lows = []
    for size in (5, 20, 100):
        low, high = area_interval(1.0, size, size, 0.95)
        assert high == 1.0
        more = (size - 1) * ((1 - low) / (2 - low) + low / (1 + low))
        variance = low * (1 - low) * (1 + more) / size**2
        assert (1 - low) ** 2 == pytest.approx(norm.ppf(0.975) ** 2 * variance)
        lows.append(low)
    assert 0.5 < lows[0] < lows[1] < lows[2] < 1
    assert area_interval(0.0, 20, 20, 0.95)[1] == pytest.approx(1 - lows[1])


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_interval_covers_the_true_area(shift):
    true = float(norm.cdf(shift / math.sqrt(2)))
    covered = 0
    for seed in range(400):
        area = roc_area(scores(shift, 30, 2 * seed), scores(0, 40, 2 * seed + 1))
        low, high = area_interval(area, 30, 40, 0.95)
        covered += low <= true <= high
    assert covered >= 370  # 380 expected; P[fewer] is below 2 % for an honest interval


# ------------------------------------------------------------------------------- rates


def test_rate_is_the_share_above_an_order_statistic_of_the_others():
    others = np.arange(100.0)
    members = np.array([97.5, 98.0, 98.5, 99.0, 99.5, 0.0])
    rate = rate_at(members, others, 0.01, math.inf, 0.0)
    assert (rate.false_alarms, rate.found) == (1, 3)  # those above 98
    assert rate.share == 0.5
    assert rate.share_of_false_alarms == pytest.approx(beta.ppf(0.95, 2, 99))
    assert (rate.low, rate.high) == pytest.approx(
        (beta.ppf(0.025, 3, 4), beta.ppf(0.975, 4, 3))
    )


def test_bounds_where_nobody_or_everybody_is_found():
    others = np.linspace(0, 1, 200)
    nobody = rate_at(np.full(50, -1.0), others, 0.01, math.inf, 0.0)
    assert nobody.high == pytest.approx(1 - 0.025 ** (1 / 50))
    everybody = rate_at(np.full(50, 2.0), others, 0.01, math.inf, 0.0)
    assert everybody.low == pytest.approx(0.025 ** (1 / 50))


@pytest.mark.parametrize("found", [0, 1, 17, 49, 50])
def test_bounds_are_clopper_and_pearsons(found):
    members = np.repeat([2.0, -1.0], [found, 50 - found])
    rate = rate_at(members, np.linspace(0, 1, 100), 0.01, math.inf, 0.0)
    exact = binomtest(found, 50).proportion_ci(0.95, method="exact")
    assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high))


def test_share_of_false_alarms_below_one_unit_cannot_be_stated():
    assert rate_at(np.ones(9), np.zeros(99), 0.01, 1.0, 0.0) is None
    assert rate_at(np.ones(9), np.zeros(100), 0.01, 1.0, 0.0) is not None
    assert rate_at(np.ones(9), np.zeros(999), 0.001, 1.0, 0.0) is None
    assert rate_at(np.ones(9), np.zeros(1000), 0.001, 1.0, 0.0) is not None


# ----------------------------------------------------------------------------- epsilon


def test_what_epsilon_allows():
    assert most_found(0.0, 0.0, 0.3) == pytest.approx(0.3)
    assert most_found(0.0, 0.1, 0.3) == pytest.approx(0.4)
    assert most_found(1.0, 0.0, 0.01) == pytest.approx(math.e * 0.01)
    # What is missed is bounded too, so e^4 times 5 % isn't the limit.
    assert most_found(4.0, 0.0, 0.05) == pytest.approx(1 - 0.95 * math.exp(-4))
    assert most_found(math.inf, 0.0, 0.0) == 1.0


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0), (0.5, 0), (2, 1e-3), (8, 1e-5)])
def test_most_area_is_the_area_under_what_epsilon_allows(epsilon, delta):
    at = np.linspace(0, 1, 200_001)
    allowed = np.array([most_found(epsilon, delta, share) for share in at])
    assert most_area(epsilon, delta) == pytest.approx(
        np.trapezoid(allowed, at), abs=2e-4
    )
    assert most_area(math.inf, 0.0) == 1.0


def test_implied_epsilon_of_a_perfect_score():
    """By nobody taken wrongly and everybody found, at Bonferroni's level."""
    pair = (np.full(200, 2.0), np.linspace(0, 1, 200))
    error = ERROR / (2 * 5 * 2)  # 5 distinct counts of 200, 2 scores
    least = error ** (1 / 200)
    expected = math.log((least - 1e-5) / (1 - least))
    assert implied_epsilon([pair, pair], 1e-5) == pytest.approx(expected)
    turned = (-pair[0], -pair[1])
    assert implied_epsilon([turned], 1e-5) == 0.0


def test_implied_epsilon_sees_who_is_surely_not_a_member():
    """Half of the others score lowest, and no member does."""
    members, others = np.full(500, 1.0), np.repeat([0.0, 1.0], 250)
    members += np.random.default_rng(0).normal(0, 1e-3, 500)
    others += np.random.default_rng(1).normal(0, 1e-3, 500)
    error = ERROR / (2 * 6)
    miss = 1 - error ** (1 / 500)
    hit = 1 - beta.ppf(1 - error, 251, 250)
    assert implied_epsilon([(members, others)], 0.0) >= math.log(hit / miss) - 1e-9


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_implied_epsilon_is_rarely_above_the_true_one(epsilon):
    """Randomised response reaches its epsilon: no score may seem to exceed it."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    above, total = 0, 0.0
    for seed in range(200):
        random = np.random.default_rng(seed)
        members = (random.random(400) < right) + 1e-6 * random.random(400)
        others = (random.random(400) > right) + 1e-6 * random.random(400)
        implied = implied_epsilon([(members, others)], 0.0)
        above += implied > epsilon
        total += implied / 200
    assert above <= 10
    assert total >= 0.5 * epsilon


# ------------------------------------------------------------------------- all together


def told(members, others, words=(0.0, 0.0), **claim):
    wording = scores(words[0], len(members), 90), scores(words[1], len(others), 91)
    claim = {"epsilon": 8.0, "delta": 1e-5} | claim
    return membership(members, others, wording=wording, **claim)


def test_attacks_are_the_loss_its_calibration_and_the_least_likely_tokens():
    one = record(-2.0, -3.5)
    assert {name: attack(one) for name, attack in ATTACKS.items()} == pytest.approx(
        {"loss": -2.0, "loss against the base model's": 1.5, "Min-20%": -2.3}
    )


def test_calibration_finds_what_the_loss_alone_does_not():
    hard = scores(-5, 200, 3)  # records differ far more than the adapter moves them
    members = units(hard + 0.2, hard)
    found = told(members, units(scores(-5, 200, 4), scores(-5, 200, 4)))
    plain, calibrated, _ = found.attacks
    assert plain.low <= 0.5
    assert calibrated.area == 1.0
    assert found.verdict == "found"
    assert not found.beyond_the_claim
    assert told(members, units(hard, hard), epsilon=0.5).beyond_the_claim


def test_nothing_is_found_where_there_is_nothing():
    false_alarms = 0
    for seed in range(100):
        sides = [
            units(scores(-3, 60, 4 * seed + i), scores(-4, 60, 4 * seed + i + 1))
            for i in (0, 2)
        ]
        found = told(*sides)
        false_alarms += found.verdict == "found"
        assert found.most_area > 0.99
    assert false_alarms <= 6  # 2.5 expected at most


@pytest.mark.parametrize("blamed", ["base", "words"])
def test_difference_in_kind_is_not_taken_for_membership(blamed):
    easier = 1.0 if blamed == "base" else 0.0
    base = [scores(-4 + easier, 200, 1), scores(-4, 200, 2)]
    members, others = (units(b + 1, b) for b in (base[0] + 0.5, base[1]))
    found = told(members, others, words=(1.0 if blamed == "words" else 0.0, 0.0))
    assert found.differ
    assert found.verdict == "unclear"
    assert found.plainest.name.startswith(blamed)
    # But no difference in kind of that size tells all of them apart.
    by_heart = units(scores(-0.1, 200, 1) * 0.01, base[0])
    assert told(by_heart, others, words=(1.0, 0.0)).verdict == "found"


def test_persons_are_judged_by_the_mean_of_their_records():
    random = np.random.default_rng(8)
    noise = random.normal(0, 3, (40, 9))
    persons = [[record(-3 + x, -3.0) for x in row] for row in noise]
    means = units(-3 + noise.mean(axis=1), np.full(40, -3.0))
    others = units(scores(-3, 40, 5), np.full(40, -3.0))
    found, expected = told(persons, others), told(means, others)
    assert [a.area for a in found.attacks[:2]] == [a.area for a in expected.attacks[:2]]
    assert (found.members, found.others) == (40, 40)
    alone = told([[person[0]] for person in persons], others)
    assert alone.attacks[0].area != found.attacks[0].area
