"""Which responses come back verbatim from their first tokens. No torch.

Greedy decoding that starts from a true prefix goes on verbatim for as long as each next
true token is the likeliest one, given all true tokens before it. So one pass over the
true text says what greedy decoding would do from *every* prefix, and nothing has to be
generated. (Carlini et al. 2023 call it discoverable memorisation.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.leakage.membership import ERROR, Verdict, area_interval
from fedit_secure.audit.leakage.record_scores import RecordScores


@dataclass(frozen=True, slots=True)
class Passage:
    """The longest stretch of a response that comes back from all that is before it.

    `start` and `length` are in tokens of the response.
    """

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Tally:
    """Units of one kind.

    Attributes:
        tried: units with a response that is long enough.
        by_both: of these, how many come back without the adapter, too.
        by_adapter: how many come back by the adapter and not by the base model.
        longest: tokens of the longest passage that does, from any prefix.
    """

    tried: int
    by_both: int
    by_adapter: int
    longest: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """What the silo's own units gave back, and the held-out ones as the control.

    Attributes:
        prefix: tokens of the response that are given.
        length: tokens that have to come back next.
        members: units that were tuned on.
        controls: units that nobody tuned on; None where there are none.
        chance: the probability that the members would exceed the controls by so much by
            chance alone, were the two alike (Fisher's exact test, one-sided).
        explained: as `Membership.explained`: the area that a difference in kind explains.
    """

    prefix: int
    length: int
    members: Tally
    controls: Tally | None
    chance: float | None
    explained: float

    @property
    def verdict(self) -> Verdict:
        """Found: clearly more often than for records that nobody tuned on."""
        own, others = self.members, self.controls
        if not own.tried:
            return "not tested"
        if not own.by_adapter:
            return "nothing found"
        if others is None or self.chance is None or not others.tried:
            return "unclear"
        if self.chance < ERROR / 2 and self._area > self.explained:
            return "found"
        more = own.by_adapter * others.tried > others.by_adapter * own.tried
        return "unclear" if more else "nothing found"

    @property
    def _area(self) -> float:
        """The lower bound of the area of "comes back" as a score for membership."""
        own, others = self.members, self.controls
        assert others is not None
        hits, alarms = own.by_adapter / own.tried, others.by_adapter / others.tried
        area = 0.5 + (hits - alarms) / 2
        return area_interval(area, own.tried, others.tried, 1 - ERROR)[0]


def extraction(
    members: Sequence[Sequence[RecordScores]],
    controls: Sequence[Sequence[RecordScores]] | None,
    *,
    prefix: int,
    length: int,
    explained: float = 0.5,
) -> Extraction:
    """Count the units of which at least one record comes back.

    Args:
        members: units that were tuned on: records, or persons with all of theirs.
        controls: as `members`, tuned on by nobody; None where there are none.
        prefix: tokens of the response that are given, 0 or more.
        length: tokens that must come back, 1 or more.
        explained: see `Membership.explained`.
    """
    own = _tally(members, prefix, length)
    others = None if controls is None else _tally(controls, prefix, length)
    return Extraction(prefix, length, own, others, _chance(own, others), explained)


def comes_back(record: RecordScores, prefix: int, length: int) -> bool:
    """Whether the adapter goes on verbatim where the base model doesn't."""
    if record.text_tokens < prefix + length:
        return False
    here = slice(prefix, prefix + length)
    return bool(
        record.adapter.greedy[here].all() and not record.base.greedy[here].all()
    )


def longest_passage(record: RecordScores) -> Passage:
    """The longest stretch that the adapter gives back and the base model doesn't.

    What the base model says as well, it says of itself; a stretch counts if the base
    model misses at least one of its tokens.
    """
    best = Passage(0, 0)
    for start, end in _runs(record.adapter.greedy[: record.text_tokens]):
        if end - start > best.length and not record.base.greedy[start:end].all():
            best = Passage(start, end - start)
    return best


def _tally(units: Sequence[Sequence[RecordScores]], prefix: int, length: int) -> Tally:
    tried = [
        long
        for unit in units
        if (long := [r for r in unit if r.text_tokens >= prefix + length])
    ]
    ours = [any(comes_back(r, prefix, length) for r in unit) for unit in tried]
    here = slice(prefix, prefix + length)
    both = [
        any(r.adapter.greedy[here].all() and r.base.greedy[here].all() for r in unit)
        for unit in tried
    ]
    passages = (longest_passage(record).length for unit in units for record in unit)
    return Tally(len(tried), sum(both), sum(ours), max(passages, default=0))


def _chance(own: Tally, others: Tally | None) -> float | None:
    if others is None or not own.tried or not others.tried:
        return None
    from scipy.stats import fisher_exact

    table = [
        [own.by_adapter, own.tried - own.by_adapter],
        [others.by_adapter, others.tried - others.by_adapter],
    ]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _runs(flags: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of every stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
