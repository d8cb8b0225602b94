"""The epsilons that are reported beside the claim, so that nobody is fooled by it.

The claim covers one unit (a record, or a person with all their records) that is zeroed
out, added or removed. Of a plan per record, these cover a record replaced by any other, a
person with several records, and a person known to several silos; of a plan per person,
one record of a person who stays, and a person known to several silos. What PLD alone
states is marked so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from fedit_secure.privacy.accountant import epsilons, require_reach
from fedit_secure.privacy.mechanisms import (
    Mechanism,
    event_of,
    mechanisms_of,
    require_delta,
)
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.privacy.pld import event_epsilon, pld_epsilon

if TYPE_CHECKING:
    from dp_accounting import DpEvent

MAX_RECORDS = 64
"""Records of one person beyond which no guarantee is stated."""

_MESH_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What a plan costs under one reading of "neighbouring".

    `by`: the accountants that the figure is from. `hidden`: whose change it hides, in
    words for an operator.
    """

    hidden: str
    epsilon: float
    by: Literal["max(PLD, PRV)", "PLD alone"]


def readings(
    plan: DpPlan,
    *,
    records: Sequence[int] = (2, 4),
    elsewhere: Sequence[DpPlan] = (),
    spares: int | None = None,
) -> Iterator[Reading]:
    """The claim, and then what it doesn't say, one at a time: each takes about a second.

    Args:
        records: for a plan per record, of how many records a person may have.
        elsewhere: the plans of other silos that the same person may be at.
        spares: as for `DpPlan.epsilons`.

    Raises what the accountants raise, at the reading that they can't state.
    """
    unit = "one record" if plan.unit == "record" else "one person, with all records"
    change = "zeroed out" if plan.sizes == "public" else "added or removed"
    claim = plan.epsilons(spares).published
    yield Reading(f"{unit}, {change}: the claim", claim, "max(PLD, PRV)")
    if plan.unit == "record":
        replaced = _replaced(plan, spares)
        yield Reading("one record, replaced by any other", replaced, "PLD alone")
        for count in records:
            together = person_epsilon(plan, count, spares)
            # Without sampling or with one record it is a Gaussian of another scale.
            mixture = count > 1 and plan.sample_rate < 1
            yield Reading(
                f"a person with {count} records at this silo, {change}",
                together,
                "PLD alone" if mixture else "max(PLD, PRV)",
            )
    else:
        changed = changed_record_epsilon(plan, spares)
        yield Reading(
            "any change of one person's records while the person stays, be it one "
            "record changed, added or removed, or all of them replaced",
            changed,
            "PLD alone",
        )
    if elsewhere:
        silos = 1 + len(elsewhere)
        yield Reading(
            f"{'a person with one record' if plan.unit == 'record' else 'a person'} at "
            f"each of {silos} silos",
            across_silos((plan, *elsewhere), spares),
            "max(PLD, PRV)",
        )


def changed_record_epsilon(plan: DpPlan, spares: int | None = None) -> float:
    """Epsilon of a plan per person where that person's records change and none leaves.

    The claim compares a person with nobody: the person's part of a sum is a vector v of
    norm C at most, or zero. If one of the records is changed, added or removed, the part
    is v before and w after. Both are clipped, so |v - w| <= |v| + |w| <= 2C, and this is
    reached: the records without the one may sum to any v, and the one may turn the sum
    around, however long they are before the clip. A cap on the records doesn't help:
    one record that leaves may let another one in. The coin is the person's in both
    cases. So a single record is hidden *less* than its person is, by as much as a
    replaced person: it is REPLACE_ONE with the person as the unit, and smaller only
    for persons whose gradients stay below the clip. PLD alone.

    Raises ValueError for a plan per record, and what `replace_one_epsilon` does.
    """
    if plan.unit != "person":
        raise ValueError("a plan per record has no persons who stay")
    return _replaced(plan, spares)


def replace_one_epsilon(event: DpEvent, delta: float) -> float:
    """Epsilon where one unit is replaced by any other; inf without privacy.

    Raises PrivacyAccountingError out of the accountant's reach, ValueError for a delta
    out of range.
    """
    import dp_accounting as dpa

    require_delta(delta)
    mechanisms = mechanisms_of(event)
    if mechanisms is None:
        return math.inf
    if not mechanisms:
        return 0.0
    require_reach(mechanisms, delta)
    relation = dpa.NeighboringRelation.REPLACE_ONE
    return pld_epsilon(mechanisms, delta, relation=relation)


@lru_cache(maxsize=256)
def person_epsilon(plan: DpPlan, records: int, spares: int | None = None) -> float:
    """Epsilon of a person with this many records at the silo, zeroed out together.

    Each step draws Binomial(records, q) of them, and the norm of their clipped sum is at
    most their number: a mixture of Gaussians (Charles et al., arXiv 2407.07737). The
    mesh is a 10,000th of one step's largest loss, rounded up. Takes seconds. inf without
    DP, and for more than MAX_RECORDS records. Of a plan per person it is the claim,
    however many the records are: they are summed and clipped as one.

    Raises PrivacyAccountingError out of the accountant's reach, ValueError for fewer
    records than one.
    """
    from dp_accounting import ComposedDpEvent, SelfComposedDpEvent
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from scipy.stats import binom

    if records < 1:
        raise ValueError(f"a person has {records} records, but must have at least one")
    if plan.delta is None or plan.kind == "none":
        return math.inf
    if plan.unit == "person":
        return plan.epsilons(spares).published
    if records > MAX_RECORDS:
        return math.inf
    steps = (plan.rounds + _spares(plan, spares)) * plan.local_steps
    q, sigma = plan.sample_rate, plan.noise_multiplier
    evaluated = _evaluated(plan, records, spares)
    if records == 1 or q == 1:
        # Without sampling, all records are in every step: one of `records` times C.
        together = event_of([Mechanism(q, sigma / records, steps), *evaluated])
        return epsilons(together, plan.delta).published
    require_reach((Mechanism(q, sigma, steps),), plan.delta)
    counts = range(records + 1)
    drawn = [(i, float(binom.pmf(i, records, q))) for i in counts]
    drawn = [(i, p) for i, p in drawn if p > 0]
    # dp-accounting follows the noise as far as ten sigma.
    far = 10 * sigma + records
    widest = max(math.log(p) + i * (2 * far - i) / (2 * sigma**2) for i, p in drawn)
    step = MixtureOfGaussiansDpEvent(
        sigma, [float(i) for i, _ in drawn], [p for _, p in drawn]
    )
    tuned = SelfComposedDpEvent(step, steps)
    return event_epsilon(
        ComposedDpEvent([tuned, event_of(evaluated)]) if evaluated else tuned,
        plan.delta,
        interval=max(widest / _MESH_POINTS, 1e-4),
    )


def across_silos(plans: Sequence[DpPlan], spares: int | None = None) -> float:
    """Epsilon of a person with one unit at each of these silos: their composition.

    Of plans per person it covers all of the person's records; of plans per record, one
    record at each silo.

    Raises ValueError unless the plans share one delta, and `accountant.epsilons`' errors.
    """
    from dp_accounting import ComposedDpEvent

    deltas = {plan.delta for plan in plans}
    if len(deltas) != 1:
        raise ValueError("the plans of several silos compose at one delta only")
    (delta,) = deltas
    if delta is None:
        return math.inf
    together = ComposedDpEvent([plan.run_event(spares) for plan in plans])
    return epsilons(together, delta).published


def _replaced(plan: DpPlan, spares: int | None) -> float:
    if plan.delta is None:
        return math.inf
    return replace_one_epsilon(plan.run_event(spares), plan.delta)


def _evaluated(plan: DpPlan, records: int, spares: int | None) -> list[Mechanism]:
    """The evaluations of so many of one person's records: each contributes by itself."""
    if plan.evaluation is None:
        return []
    times = plan.rounds + _spares(plan, spares)
    return [Mechanism(1.0, plan.evaluation.noise_multiplier / records, times)]


def _spares(plan: DpPlan, spares: int | None) -> int:
    return plan.spare_charges if spares is None else spares
