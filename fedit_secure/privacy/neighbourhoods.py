"""The epsilons that are reported beside the claim, so that nobody is fooled by it.

The claim covers one record that is zeroed out, added or removed. These cover a record
replaced by any other, a person with several records, a person known to several silos.
PLD alone states the first two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

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


def replace_one_epsilon(event: DpEvent, delta: float) -> float:
    """Epsilon where one record is replaced by any other; inf without privacy.

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
    DP, and for more than MAX_RECORDS records.

    Raises PrivacyAccountingError out of the accountant's reach, ValueError for fewer
    records than one.
    """
    from dp_accounting import SelfComposedDpEvent
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
    from scipy.stats import binom

    if records < 1:
        raise ValueError(f"a person has {records} records, but must have at least one")
    if plan.delta is None or plan.kind == "none" or records > MAX_RECORDS:
        return math.inf
    steps = (plan.rounds + _spares(plan, spares)) * plan.local_steps
    q, sigma = plan.sample_rate, plan.noise_multiplier
    if records == 1 or q == 1:
        # Without sampling, all records are in every step: one of `records` times C.
        together = event_of([Mechanism(q, sigma / records, steps)])
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
    return event_epsilon(
        SelfComposedDpEvent(step, steps),
        plan.delta,
        interval=max(widest / _MESH_POINTS, 1e-4),
    )


def across_silos(plans: Sequence[DpPlan], spares: int | None = None) -> float:
    """Epsilon of a person with one record at each of these silos: their composition.

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


def _spares(plan: DpPlan, spares: int | None) -> int:
    return plan.spare_charges if spares is None else spares
