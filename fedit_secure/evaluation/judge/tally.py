"""From verdicts to figures: totals, their ratio, wins and ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.intervals import interval
from fedit_secure.evaluation.judge.trial import Verdict


@dataclass(frozen=True, slots=True)
class Tally:
    """The second model against the first.

    A question counts with the mean scores of all its verdicts, and only if it was read in
    both orders. `win_rate` counts a tie as half a win, with the ends of its bootstrap
    interval over questions (None for fewer than two). `orders_agree` is the share of
    questions on which both orders have the same winner, or none.
    """

    questions: int
    unread_questions: int
    unread_verdicts: int
    first_total: float
    second_total: float
    ratio: float
    wins: int
    ties: int
    losses: int
    win_rate: float
    low: float | None
    high: float | None
    orders_agree: float
    prompt_tokens: int
    completion_tokens: int


def tally(verdicts: Sequence[Verdict], confidence: float, seed: int) -> Tally:
    """The figures of all verdicts. Raises ConfigError if no question was read in both
    orders."""
    by_question: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_question[verdict.question].append(verdict)
    pairs, agree = [], []
    for some in by_question.values():
        orders = [
            _mean([v for v in some if v.swapped is order]) for order in (False, True)
        ]
        if orders[0] is None or orders[1] is None:
            continue
        # Orders weigh alike, however many verdicts of each could be read.
        pairs.append(np.mean([orders[0], orders[1]], axis=0))
        agree.append(_winner(*orders[0]) == _winner(*orders[1]))
    if not pairs:
        raise ConfigError(
            "the judge gave no question a readable verdict in both orders"
        )
    first, second = np.array(pairs).T
    winners = np.array([_winner(a, b) for a, b in zip(first, second, strict=True)])
    points = (winners + 1) / 2
    low, high = interval(points, confidence, seed)
    return Tally(
        questions=len(pairs),
        unread_questions=len(by_question) - len(pairs),
        unread_verdicts=sum(verdict.first is None for verdict in verdicts),
        first_total=float(first.sum()),
        second_total=float(second.sum()),
        ratio=float(second.sum() / first.sum()),
        wins=int((winners == 1).sum()),
        ties=int((winners == 0).sum()),
        losses=int((winners == -1).sum()),
        win_rate=float(points.mean()),
        low=low,
        high=high,
        orders_agree=float(np.mean(agree)),
        prompt_tokens=sum(verdict.prompt_tokens for verdict in verdicts),
        completion_tokens=sum(verdict.completion_tokens for verdict in verdicts),
    )


def _mean(some: Sequence[Verdict]) -> tuple[float, float] | None:
    read = [
        (v.first, v.second)
        for v in some
        if v.first is not None and v.second is not None
    ]
    if not read:
        return None
    first, second = np.mean(read, axis=0)
    return float(first), float(second)


def _winner(first: float, second: float) -> int:
    """1 where the second is better, -1 where the first is, 0 for a tie."""
    return int(np.sign(round(second - first, 9)))
