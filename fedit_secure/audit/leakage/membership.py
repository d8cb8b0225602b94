"""How well a score tells a silo's records from records that nobody tuned on. No torch.

Scores: the loss under the adapter (Yeom et al. 2018), the same calibrated by the base
model's loss (Carlini et al. 2021; Watson et al. 2022), and Min-K% (Shi et al. 2024).

What the intervals say is about this one adapter: the held-out records are a sample of
what it never saw, and the members one of what it did. Differential privacy bounds an
average over the noise. So an implied epsilon above the claim is an alarm and no proof,
and one below it proves nothing: `fedit audit canary` is the test with coins of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.leakage.record_scores import RecordScores

Scores = npt.NDArray[np.float64]
Verdict = Literal["found", "nothing found", "unclear", "not tested"]

ERROR = 0.05
"""Probability that a family of intervals misses somewhere; the verdict rests on it."""
TARGETS = (0.01, 0.001)
"""Shares of false alarms at which the share that is found is stated."""
_LOOKS = (0.0, 0.001, 0.01, 0.05, 0.2, 0.5)
"""Shares of false alarms that the implied epsilon is looked for at: fixed beforehand."""
_MIN_K = 0.2
_TINY = 1e-12

ATTACKS: Mapping[str, Callable[[RecordScores], float]] = {
    "loss": lambda record: record.adapter.mean,
    "loss against the base model's": lambda r: r.adapter.mean - r.base.mean,
    "Min-20%": lambda record: record.adapter.lowest(_MIN_K),
}
"""Higher means "was tuned on", for each of them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a score finds when `false_alarms` of the held-out units are taken for members.

    The score that lets exactly so many pass is an order statistic of held-out scores, so
    the share of all unseen units that pass it is Beta distributed: `share_of_false_alarms`
    is its upper bound, the same as Clopper and Pearson's. Given that score, members pass
    or don't: `low` and `high` are Clopper and Pearson's interval for `found` of them.

    Attributes:
        target: the share of false alarms that was asked for.
        allowed: the largest share that the claimed (epsilon, delta) lets anybody find.
    """

    target: float
    false_alarms: int
    share_of_false_alarms: float
    found: int
    share: float
    low: float
    high: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Attack:
    """One score's area under the ROC curve with its interval, and its rates."""

    name: str
    area: float
    low: float
    high: float
    rates: tuple[Rate, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """All attacks on the same units.

    Attributes:
        members: units that were tuned on, and whose scores were taken.
        others: held-out units.
        attacks: with intervals that hold together for all of them.
        base: the base model's loss, by itself. It was tuned on neither: what it tells
            apart is a difference in kind, not membership.
        words: what a classifier of words tells apart, which asks no model.
        implied: epsilon that the rates imply at least, 0 where they imply none.
        epsilon: the claim; inf without differential privacy.
        most_area: the largest area that the claim lets anybody reach.
        noticeable: the smallest area that these numbers would have noticed.
    """

    members: int
    others: int
    attacks: tuple[Attack, ...]
    base: Attack
    words: Attack
    implied: float
    epsilon: float
    delta: float
    most_area: float
    noticeable: float

    @property
    def verdict(self) -> Verdict:
        """Found: an interval is above one half, and above what a difference in kind tells."""
        best = max(attack.low for attack in self.attacks)
        if best <= 0.5:
            return "nothing found"
        return "found" if best > self.explained else "unclear"

    @property
    def differ(self) -> bool:
        """Whether what was tuned on neither tells the two apart: they differ in kind."""
        # A base model that finds the silo's records the harder ones counts, too. Words
        # can't be wrong on purpose: there, less than one half is chance.
        return not self.base.low <= 0.5 <= self.base.high or self.words.low > 0.5

    @property
    def explained(self) -> float:
        """The largest area that a difference in kind explains; one half without one."""
        if not self.differ:
            return 0.5
        return max(self.base.high, 1 - self.base.low, self.words.high)

    @property
    def plainest(self) -> Attack:
        """The control that tells the two apart best."""
        return max(self.base, self.words, key=lambda control: abs(control.area - 0.5))

    @property
    def beyond_the_claim(self) -> bool:
        """Whether the rates imply more than the claimed epsilon."""
        return self.implied > self.epsilon


def membership(
    members: Sequence[Sequence[RecordScores]],
    others: Sequence[Sequence[RecordScores]],
    *,
    wording: tuple[Scores, Scores],
    epsilon: float,
    delta: float,
) -> Membership:
    """Try every attack. A unit is a record, or a person: the mean over their records.

    Args:
        members: at least one unit, each with at least one record.
        others: as `members`, of the same kind of records, and tuned on by nobody.
        wording: what words alone say of the same units, see `wording_scores`.
        epsilon: the claim for one unit; inf without differential privacy.
        delta: the claim's.
    """
    sizes = len(members), len(others)
    scores = {
        name: (_of_units(members, attack), _of_units(others, attack))
        for name, attack in ATTACKS.items()
    }
    together = 1 - ERROR / len(ATTACKS)
    base = tuple(_of_units(units, lambda r: r.base.mean) for units in (members, others))
    return Membership(
        members=sizes[0],
        others=sizes[1],
        attacks=tuple(
            _attack(name, *pair, together, epsilon, delta)
            for name, pair in scores.items()
        ),
        base=_attack(
            "base model alone", base[0], base[1], 1 - ERROR / 2, epsilon, delta
        ),
        words=_attack("words alone", *wording, 1 - ERROR / 2, epsilon, delta),
        implied=implied_epsilon(list(scores.values()), delta),
        epsilon=epsilon,
        delta=delta,
        most_area=most_area(epsilon, delta),
        noticeable=noticeable_area(*sizes, together),
    )


def _of_units(
    units: Sequence[Sequence[RecordScores]], attack: Callable[[RecordScores], float]
) -> Scores:
    return np.array([np.mean([attack(r) for r in unit]) for unit in units], np.float64)


def _attack(
    name: str,
    members: Scores,
    others: Scores,
    confidence: float,
    epsilon: float,
    delta: float,
) -> Attack:
    area = roc_area(members, others)
    low, high = area_interval(area, len(members), len(others), confidence)
    rates = tuple(
        rate
        for target in TARGETS
        if (rate := rate_at(members, others, target, epsilon, delta)) is not None
    )
    return Attack(name, area, low, high, rates)


def roc_area(members: Scores, others: Scores) -> float:
    """P[a member's score is above another's], ties counted half: the area under the ROC."""
    from scipy.stats import rankdata

    n = len(members)
    ranks = rankdata(np.concatenate([members, others]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(others)))


def area_interval(
    area: float, members: int, others: int, confidence: float
) -> tuple[float, float]:
    """The areas that this one isn't too far from (Newcombe 2006, method 5).

    The variance is Hanley and McNeil's at the area that is asked about, so the interval
    neither leaves [0, 1] nor shrinks to a point where the scores don't overlap; and
    whether it holds one half is what Mann and Whitney's test says.
    """
    from scipy.optimize import brentq

    z = _normal_quantile(confidence)

    def misses(about: float) -> float:
        deviation = math.sqrt(_area_variance(about, members, others))
        return abs(about - area) - z * deviation

    # At 0 and 1 themselves the variance is 0, which isn't the solution that is looked for.
    low = 0.0 if area == 0 else brentq(misses, 0.0, min(area, 1 - _TINY))
    high = 1.0 if area == 1 else brentq(misses, max(area, _TINY), 1.0)
    return float(low), float(high)


def noticeable_area(members: int, others: int, confidence: float) -> float:
    """The smallest area whose interval would be above one half; 1 if none would."""
    deviation = math.sqrt(_area_variance(0.5, members, others))
    return min(1.0, 0.5 + _normal_quantile(confidence) * deviation)


def _area_variance(area: float, members: int, others: int) -> float:
    more = (members + others) / 2 - 1
    pairs = (1 - area) / (2 - area) + area / (1 + area)
    return area * (1 - area) * (1 + more * pairs) / (members * others)


def _normal_quantile(confidence: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + confidence) / 2))


def rate_at(
    members: Scores, others: Scores, target: float, epsilon: float, delta: float
) -> Rate | None:
    """The rate at a share of false alarms; None where that share is less than one unit."""
    alarms = math.floor(target * len(others) + 1e-9)
    if alarms < 1:
        return None
    found, of = _found(members, others, alarms), len(members)
    return Rate(
        target=target,
        false_alarms=alarms,
        share_of_false_alarms=_at_most(alarms, len(others), ERROR),
        found=found,
        share=found / of,
        low=_at_least(found, of, ERROR / 2),
        high=_at_most(found, of, ERROR / 2),
        allowed=most_found(epsilon, delta, target),
    )


def _found(members: Scores, others: Scores, alarms: int) -> int:
    """Members above the score that at most `alarms` of the others are above."""
    return int((members > np.sort(others)[len(others) - 1 - alarms]).sum())


def _at_most(count: int, of: int, error: float) -> float:
    """Clopper and Pearson's one-sided upper bound of a share: a Beta quantile."""
    from scipy.special import betaincinv

    return 1.0 if count == of else float(betaincinv(count + 1, of - count, 1 - error))


def _at_least(count: int, of: int, error: float) -> float:
    """Their lower bound."""
    return 1 - _at_most(of - count, of, error)


def implied_epsilon(scores: Sequence[tuple[Scores, Scores]], delta: float) -> float:
    """The largest epsilon that some rate contradicts anything less than; 0 for none.

    TPR <= e^eps FPR + delta, and the same of what is left out: 1 - FPR <= e^eps (1 - TPR)
    + delta. Each share is taken at its one-sided bound, such that all bounds of all
    scores hold together but for a probability of `ERROR`.

    Args:
        scores: (members', others') of each attack.
        delta: at which epsilon is stated.
    """
    implied = 0.0
    for members, others in scores:
        n, m = len(others), len(members)
        looks = sorted({math.floor(share * n + 1e-9) for share in _LOOKS})
        error = ERROR / (2 * len(looks) * len(scores))
        for alarms in looks:
            least = _at_least(_found(members, others, alarms), m, error)
            most = _at_most(alarms, n, error)
            for hit, miss in ((least, most), (1 - most, 1 - least)):
                if hit - delta > miss:
                    implied = max(implied, math.log((hit - delta) / miss))
    return implied


def most_found(epsilon: float, delta: float, false_alarms: float) -> float:
    """The largest share of members that (epsilon, delta) lets anybody find.

    Kairouz, Oh and Viswanath 2015: both conditions of `implied_epsilon` with equality.
    """
    if epsilon == math.inf:
        return 1.0
    linear = math.exp(epsilon) * false_alarms + delta
    other = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return max(0.0, min(1.0, linear, other))


def most_area(epsilon: float, delta: float) -> float:
    """The area under `most_found`: 1 - (1 - delta)^2 / (1 + e^epsilon)."""
    if epsilon == math.inf:
        return 1.0
    return 1 - (1 - delta) ** 2 / (1 + math.exp(epsilon))
