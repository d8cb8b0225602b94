"""What counts as coming back, and when the silo's records do so more than others."""

from __future__ import annotations

import numpy as np
import pytest

from fedit_secure.audit.leakage.extraction import (
    Passage,
    comes_back,
    extraction,
    longest_passage,
)
from fedit_secure.audit.leakage.record_scores import RecordScores, TokenScores


def record(adapter, base="", ended=True):
    """A record of which "x" are the tokens that a model finds likeliest."""
    base = base.ljust(len(adapter), ".")

    def scores(flags):
        greedy = np.array([flag == "x" for flag in flags])
        return TokenScores(np.zeros(len(greedy)), greedy)

    text = len(adapter) - ended
    return RecordScores(np.arange(len(adapter)), text, scores(adapter), scores(base))


def test_only_the_tokens_after_the_prefix_have_to_come_back():
    assert comes_back(record("..xxx.E"), 2, 3)
    assert not comes_back(record("..xxx.E"), 2, 4)
    assert not comes_back(record("xx.xx.E"), 2, 3)
    assert comes_back(record("xxx.E"), 0, 3)


def test_what_the_base_model_says_too_is_no_memory():
    assert not comes_back(record("..xxxx", "..xxxx"), 2, 3)
    assert comes_back(record("..xxxx", "..xx.x"), 2, 3)
    assert longest_passage(record("xxxx.xx.", "xxxx")) == Passage(5, 2)


def test_end_of_sequence_is_no_text():
    assert not comes_back(record("..xxx"), 2, 3)
    assert comes_back(record("..xxx", ended=False), 2, 3)
    assert longest_passage(record("..xxx")) == Passage(2, 2)


def test_longest_passage_starts_anywhere():
    assert longest_passage(record("x.xxx.xxxxx.xx..")) == Passage(6, 5)
    assert longest_passage(record("......")) == Passage(0, 0)


def both(own, others, **options):
    back, gone, short = record("xxxxxE"), record("xx.xxE"), record("xE")
    side = [
        [[back]] * backs + [[gone]] * gones + [[short]] * 2
        for backs, gones in (own, others)
    ]
    return extraction(side[0], side[1], prefix=1, length=4, **options)


def test_counts_and_fishers_exact_test():
    found = both((3, 0), (0, 3))
    assert found.members.tried == found.controls.tried == 3  # the short ones aren't
    assert (found.members.by_adapter, found.controls.by_adapter) == (3, 0)
    assert found.chance == pytest.approx(1 / 20)  # of 6 choose 3 tables, one
    assert found.verdict == "unclear"
    assert both((5, 0), (0, 5)).chance == pytest.approx(1 / 252)
    assert both((5, 0), (0, 5)).verdict == "found"


def test_set_phrases_come_back_for_everybody():
    assert both((40, 10), (42, 8)).verdict == "nothing found"
    assert both((0, 50), (0, 50)).verdict == "nothing found"
    assert both((42, 8), (40, 10)).verdict == "unclear"


def test_more_than_a_difference_in_kind_explains():
    own, others = (30, 20), (15, 35)
    assert both(own, others).verdict == "found"
    assert both(own, others, explained=0.75).verdict == "unclear"
    assert both((50, 0), (0, 50), explained=0.75).verdict == "found"


def test_without_controls_nobody_knows():
    back = extraction([[record("xxxxxE")]], None, prefix=1, length=4)
    assert (back.controls, back.chance, back.verdict) == (None, None, "unclear")
    gone = extraction([[record("..xxxE")]], None, prefix=1, length=4)
    assert gone.verdict == "nothing found"
    short = extraction([[record("xE")]], None, prefix=1, length=4)
    assert short.verdict == "not tested"


def test_a_person_comes_back_with_any_record():
    person = [record("......E"), record("xE"), record("xxxxxxE")]
    found = extraction([person], [[record("......E")]], prefix=1, length=4)
    assert found.members.tried == found.members.by_adapter == 1
    assert found.members.longest == 6
