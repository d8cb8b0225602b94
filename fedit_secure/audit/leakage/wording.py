"""Whether two sets of records differ in kind, by their words alone. No torch, no model.

A test of membership compares records that an adapter saw with others. If the two differ
in what they speak of, an adapter that learnt the one kind tells them apart, and
remembers nobody: attacks on language models were often credited with that (Das, Zhang
and Tramer 2024). A classifier that never asks a model shows how much can be told so.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fedit_secure.tuning.records import Record

_WORD = re.compile(r"\w+")
_PARTS = 5

Units = Sequence[Sequence[Record]]


def wording_scores(
    members: Units, others: Units, *, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How much a naive Bayes classifier of words takes each unit for a member.

    A unit is judged by the other four fifths, so no one is known by heart. Scores of
    different fifths aren't quite independent, so an interval that takes them for it is a
    little narrow: a difference in kind is seen too often rather than too seldom, and
    that is the side on which nobody is blamed for a memory that isn't there.

    Args:
        members: records of each unit.
        others: as `members`.
        seed: of the split into fifths.

    Returns:
        Log odds, float64, shape (members,) and (others,).
    """
    random = np.random.default_rng(seed)
    words = [[_words(unit) for unit in units] for units in (members, others)]
    parts = [random.permutation(len(units)) % _PARTS for units in words]
    scores = [np.zeros(len(units)) for units in words]
    for part in range(_PARTS):
        seen = [
            [unit for unit, own in zip(units, at, strict=True) if own != part]
            for units, at in zip(words, parts, strict=True)
        ]
        odds = _log_odds(*seen)
        for units, at, score in zip(words, parts, scores, strict=True):
            for index in np.flatnonzero(at == part).tolist():
                known = [odds[word] for word in units[index] if word in odds]
                score[index] = sum(known)
    return scores[0], scores[1]


def _words(unit: Iterable[Record]) -> set[str]:
    texts = (text for r in unit for text in (r.instruction, r.input, r.response))
    return {word for text in texts for word in _WORD.findall(text.lower())}


def _log_odds(
    members: Sequence[set[str]], others: Sequence[set[str]]
) -> dict[str, float]:
    """log of P[word | member] / P[word | other], each with one more unit that has it
    and one that hasn't."""
    ours, theirs = (
        Counter(w for unit in units for w in unit) for units in (members, others)
    )
    return {
        word: math.log((ours[word] + 1) / (len(members) + 2))
        - math.log((theirs[word] + 1) / (len(others) + 2))
        for word in ours.keys() | theirs.keys()
    }
