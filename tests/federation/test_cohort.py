"""The draw of a round's silos: the same everywhere, and nobody's choice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import combinations
from math import comb, sqrt
from pathlib import Path

import pytest
from secagg import independent

from fedit_secure.federation.cohort import Cohorts, draw

VECTORS = Path(__file__).parents[1] / "vectors" / "cohort.json"
CASES = json.loads(VECTORS.read_text())["cases"]
CHARTER = hashlib.sha256(b"any charter").digest()
ROUNDS = 20_000


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['size']} of {c['silos']}")
def test_what_was_once_drawn_stays_drawn(case):
    at = (bytes.fromhex(case["charter"]), case["round"], case["silos"], case["size"])
    assert list(draw(*at)) == case["drawn"] == independent.cohort(*at)


def test_every_set_is_as_likely_as_any_other():
    """35 sets of three of seven, over 20,000 rounds: chi-squared within 6 sigma, and no silo
    is drawn oftener than chance has it."""
    drawn = Counter(draw(CHARTER, now, 7, 3) for now in range(1, ROUNDS + 1))
    assert set(drawn) == set(combinations(range(7), 3))
    expected = ROUNDS / comb(7, 3)
    chi = sum((count - expected) ** 2 / expected for count in drawn.values())
    freedom = comb(7, 3) - 1
    assert abs(chi - freedom) < 6 * sqrt(2 * freedom)
    for silo in range(7):
        times = sum(count for cohort, count in drawn.items() if silo in cohort)
        assert abs(times - ROUNDS * 3 / 7) < 5 * sqrt(ROUNDS * 3 / 7 * 4 / 7)


def test_a_round_says_nothing_of_the_next_or_of_another_charter():
    """Who is drawn now is drawn next as often as anybody, and in the same round of a charter
    that differs in one bit."""
    other = bytes((CHARTER[0] ^ 1, *CHARTER[1:]))
    for again in (
        lambda now: draw(CHARTER, now + 1, 7, 3),
        lambda now: draw(other, now, 7, 3),
    ):
        both = sum(
            len(set(draw(CHARTER, now, 7, 3)) & set(again(now)))
            for now in range(1, ROUNDS // 4)
        )
        # The overlap of two cohorts is hypergeometric: mean 9/7, variance 24/49.
        mean, spread = ROUNDS / 4 * 9 / 7, sqrt(ROUNDS / 4 * 24 / 49)
        assert abs(both - mean) < 5 * spread


def test_a_charter_without_it_takes_all_silos_in_every_round(charter):
    cohorts = Cohorts(charter)
    everyone = tuple(range(len(charter.roster)))
    assert cohorts.of(1) == cohorts.of(77) == everyone
    assert cohorts.roster(1) == cohorts.roster(2) == charter.secagg_roster()
    assert cohorts.roster(3).silos == range(len(everyone))
    assert cohorts.names(1) == tuple(row.name for row in charter.roster)
    assert all(cohorts.takes(5, silo) for silo in everyone)


def test_a_charter_with_it_takes_those_that_are_drawn(make_charter, make_plan, cards):
    some = make_charter(make_plan(participation=0.75), cards)
    assert some.silos_per_round == 3
    cohorts, silos = Cohorts(some), len(some.roster)
    for now in (1, 2, 3, 1000):
        drawn = draw(some.digest(), now, silos, 3)
        assert cohorts.of(now) == drawn
        assert cohorts.roster(now).silos == frozenset(drawn)
        assert cohorts.roster(now).members == some.secagg_roster().members
        assert [i for i in range(silos) if cohorts.takes(now, i)] == list(drawn)
        assert cohorts.names(now) == tuple(some.roster[i].name for i in drawn)
    assert len({cohorts.of(now) for now in range(1, 40)}) == comb(silos, 3)
