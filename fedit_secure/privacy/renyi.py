"""Renyi DP: the sanity bound on every epsilon, and the filter of lifetime caps."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from fedit_secure.privacy.mechanisms import (
    NO_NOISE,
    Mechanism,
    event_of,
    mechanisms_of,
    require_delta,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_ROUNDING = 4e-15  # of one step's divergence: all orders' sums are rounded to less

ORDERS = (
    2.0,
    *(round(2.2 + tenth / 10, 1) for tenth in range(88)),
    *(float(order) for order in range(11, 64)),
    128.0,
    256.0,
    512.0,
    1024.0,
)
"""Orders to choose from."""


@lru_cache(maxsize=4096)
def divergences(
    mechanisms: tuple[Mechanism, ...], orders: tuple[float, ...]
) -> tuple[float, ...]:
    """The Renyi divergence of the composition at each order, by dp-accounting.

    Rounded up; inf at an order that it can't compute, and where there is hardly noise.
    """
    import dp_accounting as dpa
    from dp_accounting.rdp import RdpAccountant

    if any(mechanism.noise_multiplier < NO_NOISE for mechanism in mechanisms):
        return (math.inf,) * len(orders)
    relation = dpa.NeighboringRelation.REPLACE_SPECIAL
    # For rates near 1/2 dp-accounting's series of a small fractional order decays too
    # slowly to be summed. Leaving an order out is safe: each is a bound by itself.
    slow = any(0.4 < mechanism.sample_rate < 1 for mechanism in mechanisms)
    summed = [o for o in orders if not (slow and o < 4 and o != round(o))]
    if not summed:
        return (math.inf,) * len(orders)
    accountant = RdpAccountant(summed, relation).compose(event_of(mechanisms))
    rounding = _ROUNDING * sum(mechanism.steps for mechanism in mechanisms)
    found = (max(0.0, float(value)) + rounding for value in accountant.rdp)
    known = dict(zip(summed, found, strict=True))
    return tuple(known.get(order, math.inf) for order in orders)


def _loss(order: float, delta: float) -> float:
    """What epsilon at delta exceeds the divergence by.

    Canonne, Kamath, Steinke 2020 (arXiv 2004.00010), proposition 12.
    """
    return math.log1p(-1 / order) - math.log(delta * order) / (order - 1)


def rdp_epsilon(
    mechanisms: tuple[Mechanism, ...], delta: float, orders: tuple[float, ...] = ORDERS
) -> float:
    """The least epsilon at delta over the orders; 0 for no mechanisms."""
    if not mechanisms:
        return 0.0
    found = zip(orders, divergences(mechanisms, orders), strict=True)
    return max(0.0, min(value + _loss(order, delta) for order, value in found))


def filter_epsilon(event: DpEvent, order: float, delta: float) -> float:
    """Epsilon at delta by RDP at one order, which was fixed before the first release.

    Holds for adaptively chosen events as long as every event is refused that would lift
    it above the cap: the Renyi filter of Feldman and Zrnic, *Individual Privacy
    Accounting via a Renyi Filter*, NeurIPS 2021 (arXiv 2008.11193). inf without privacy.
    Raises ValueError for a delta or an order out of range.
    """
    require_delta(delta)
    if not order > 1:
        raise ValueError(f"the Renyi order is {order}, but must exceed 1")
    mechanisms = mechanisms_of(event)
    if mechanisms is None:
        return math.inf
    return rdp_epsilon(mechanisms, delta, (order,))


def best_order(event: DpEvent, delta: float, cap_epsilon: float) -> float:
    """The filter order under which most copies of `event` fit below the cap.

    Where the event just reaches the cap, that is the order of its least RDP epsilon. An
    event without privacy has none: it gets that of a Gaussian with sigma 1.
    Raises ValueError for a delta or a cap out of range.
    """
    require_delta(delta)
    if not cap_epsilon > 0:
        raise ValueError(f"the cap is {cap_epsilon}, but must be positive")
    mechanisms = mechanisms_of(event) or (Mechanism(1.0, 1.0, 1),)
    found = zip(ORDERS, divergences(mechanisms, ORDERS), strict=True)
    copies = [((cap_epsilon - _loss(order, delta)) / d, order) for order, d in found]
    return max(copies)[1]
