"""A classifier of words tells kinds of records apart, and nothing else."""

from __future__ import annotations

import numpy as np
from audit.remembering import notes

from fedit_secure.audit.leakage.membership import area_interval, roc_area
from fedit_secure.audit.leakage.wording import wording_scores
from fedit_secure.tuning.records import Record


def interval(members, others, seed=0):
    ours, theirs = wording_scores(
        [[r] for r in members], [[r] for r in others], seed=seed
    )
    area = roc_area(ours, theirs)
    return area, *area_interval(area, len(members), len(others), 0.95)


def test_records_of_one_kind_are_hardly_told_apart():
    found = [
        interval(notes(60, 2 * seed), notes(60, 2 * seed + 1)) for seed in range(40)
    ]
    assert abs(np.mean([area for area, _, _ in found]) - 0.5) < 0.03
    assert sum(low > 0.5 for _, low, _ in found) <= 8


def test_records_of_two_kinds_are():
    others = [Record(f"{r.instruction} today", "", r.response) for r in notes(60, 2)]
    area, low, _ = interval(notes(60, 1), others)
    assert area > 0.99
    assert low > 0.9


def test_no_record_is_known_by_heart():
    """A word that no other record has says nothing of the one that has it."""
    alone = [[Record(f"word{i}", "", f"answer{i}")] for i in range(40)]
    ours, theirs = wording_scores(alone[:20], alone[20:], seed=0)
    assert set(ours.tolist()) == set(theirs.tolist()) == {0.0}


def test_case_and_punctuation_do_not_matter():
    plain = [[Record("the cat", "", "sat")] for _ in range(10)]
    loud = [[Record("The CAT!", "", "Sat.")] for _ in range(10)]
    ours, theirs = wording_scores(plain, loud, seed=0)
    assert np.allclose(ours, theirs)
