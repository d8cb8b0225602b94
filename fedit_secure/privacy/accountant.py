"""The epsilon of composed events by three accountants, and the noise for a target.

PLD is dp-accounting's: pessimistic, official. PRV is our own (`prv.py`) and shares no
code with it. RDP is an upper bound that has an answer for every event. GDP is never
used, it may be 20 % too low.

A plan is accepted only if PLD and PRV both reach it and agree; then max(PLD, PRV) is
published. What was spent must always have a figure: where they don't, that is the
largest of all that answered, RDP's bound among them.

dp-accounting takes a second to import, so the functions that need it import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from fedit_secure.errors import BudgetExhausted
from fedit_secure.privacy import prv
from fedit_secure.privacy.mechanisms import (
    Mechanism,
    PrivacyAccountingError,
    mechanisms_of,
    merged,
    require_delta,
)
from fedit_secure.privacy.pld import MESH_ERROR, pld_epsilon
from fedit_secure.privacy.renyi import ORDERS, rdp_epsilon

if TYPE_CHECKING:
    from dp_accounting import DpEvent, NeighboringRelation

__all__ = [
    "Epsilons",
    "PrivacyAccountingError",
    "calibrate",
    "epsilons",
    "require_reach",
    "spent_epsilons",
]

MAX_GAP = 0.02
"""Largest |PRV - PLD| that isn't taken for a bug; PRV states about 0.01 more by design."""

MAX_RDP_EPSILON = 500.0
"""RDP epsilon from which on the finer accountants aren't run: they'd fill the memory."""

MIN_TARGET = 0.05
"""Smallest epsilon to calibrate to: PRV's own 0.01 would eat too much of a smaller one."""

_GRID = 10_000  # noise multipliers are calibrated to four decimals, rounded up
_MAX_SIGMA = 1e4


@dataclass(frozen=True, slots=True)
class Epsilons:
    """One event's epsilon by each accountant, and the one to publish.

    None is an accountant that can't reach the event.
    """

    pld: float | None
    prv: float | None
    rdp: float

    @classmethod
    def same(cls, epsilon: float) -> Epsilons:
        """One figure on which all agree: 0 for nothing, inf for no privacy."""
        return cls(epsilon, epsilon, epsilon)

    @property
    def agreed(self) -> bool:
        """Whether PLD and PRV both answered, at most MAX_GAP apart and RDP above.

        (But for what PLD's mesh may add.)
        """
        if self.pld is None or self.prv is None:
            return False
        gap = 0.0 if self.pld == self.prv else abs(self.prv - self.pld)
        return gap <= MAX_GAP and self.rdp >= self.pld - MESH_ERROR

    @property
    def published(self) -> float:
        """max(PLD, PRV) where they agree, else the largest of all that answered."""
        figures = [figure for figure in (self.pld, self.prv) if figure is not None]
        return max(figures) if self.agreed else max(*figures, self.rdp, 0.0)


def epsilons(
    event: DpEvent, delta: float, relation: NeighboringRelation | None = None
) -> Epsilons:
    """The epsilon of a plan's event at delta, on which the accountants agree.

    For zeroing out, adding or removing a record: the three have the same epsilon here,
    both directions of one dominating pair. So `relation` is checked and changes nothing.
    Every figure is inf for an event without privacy, and 0 for an empty one.

    Raises:
        PrivacyAccountingError: the event is out of an accountant's reach, PLD and PRV
            differ by more than MAX_GAP, or RDP is below PLD.
        ValueError: delta is out of range, or the relation is REPLACE_ONE, for which see
            `neighbourhoods.replace_one_epsilon`.
    """
    import dp_accounting as dpa

    require_delta(delta)
    if relation == dpa.NeighboringRelation.REPLACE_ONE:
        raise ValueError("PRV and RDP don't account for replacing a record")
    mechanisms = mechanisms_of(event)
    if not mechanisms:
        return Epsilons.same(math.inf if mechanisms is None else 0.0)
    return _agreed(mechanisms, delta)


def spent_epsilons(event: DpEvent, delta: float) -> Epsilons:
    """The epsilon of what was done already, which always has a figure.

    As `epsilons`, but where an accountant can't reach the event, or they disagree, the
    published figure is the largest of those that answered: RDP's bound, as a rule. In
    bounded time and memory. Raises ValueError for a delta out of range, and
    PrivacyAccountingError for events that aren't Gaussian.
    """
    require_delta(delta)
    mechanisms = mechanisms_of(event)
    if not mechanisms:
        return Epsilons.same(math.inf if mechanisms is None else 0.0)
    return _figures(mechanisms, delta)[0]


def require_reach(mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    """The RDP epsilon; raises PrivacyAccountingError above MAX_RDP_EPSILON."""
    rdp = rdp_epsilon(mechanisms, delta)
    if not rdp <= MAX_RDP_EPSILON:
        raise PrivacyAccountingError(
            f"epsilon is about {rdp:.3g} at delta {delta:g}, beyond any guarantee and "
            "beyond the accountants' reach: use more noise or fewer steps"
        )
    return rdp


def _agreed(mechanisms: tuple[Mechanism, ...], delta: float) -> Epsilons:
    """Raises PrivacyAccountingError, with the reason, where there is no agreement."""
    require_reach(mechanisms, delta)
    found, reason = _figures(mechanisms, delta)
    if found.agreed:
        return found
    raise PrivacyAccountingError(
        reason
        or f"the accountants disagree at delta {delta:g}: epsilon is {found.pld:.6f} by "
        f"PLD, {found.prv:.6f} by PRV, at most {found.rdp:.6f} by RDP, so none is stated"
    )


@lru_cache(maxsize=1024)
def _figures(
    mechanisms: tuple[Mechanism, ...], delta: float
) -> tuple[Epsilons, str | None]:
    """What each accountant says, and why the first that didn't couldn't.

    PRV knows before it begins whether it can reach the event, and PLD, which may take
    seconds to find out, is asked only then.
    """
    rdp = rdp_epsilon(mechanisms, delta)
    second = None
    try:
        require_reach(mechanisms, delta)
        second = prv.epsilon(mechanisms, delta)
        first = pld_epsilon(mechanisms, delta)
    except PrivacyAccountingError as reason:
        return Epsilons(None, second, rdp), str(reason)
    return Epsilons(first, second, rdp), None


def calibrate(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    *,
    spent: DpEvent | None = None,
    filter_order: float | None = None,
) -> float:
    """The smallest noise multiplier, to four decimals, that keeps to the target.

    max(PLD, PRV) of all `steps`, composed with `spent` if given, is at most
    `target_epsilon` at `delta`. With `filter_order` so is the Renyi filter's epsilon at
    that order, which a ledger with earlier charters demands.

    Raises:
        BudgetExhausted: what is spent leaves no room for any noise.
        PrivacyAccountingError: the plan is out of the accountants' reach.
        ValueError: a parameter is out of range.
    """
    require_delta(delta)
    if not MIN_TARGET <= target_epsilon < math.inf:
        raise ValueError(
            f"epsilon is {target_epsilon}, but must be finite and at least {MIN_TARGET}"
        )
    if not 0 < sample_rate <= 1:
        raise ValueError(f"the sample rate is {sample_rate}, not in (0, 1]")
    if steps < 1:
        raise ValueError(f"the plan has {steps} steps, but must have at least one")
    before = () if spent is None else mechanisms_of(spent)
    if before is None:
        raise BudgetExhausted("records were used without DP, so no budget is left")
    search = _Search(target_epsilon, delta, sample_rate, steps, before, filter_order)
    return _calibrate(search)


@dataclass(frozen=True, slots=True)
class _Search:
    """What a calibration looks for, and what a noise multiplier costs there."""

    target: float
    delta: float
    sample_rate: float
    steps: int
    before: tuple[Mechanism, ...]
    order: float | None

    def mechanisms(self, sigma: float) -> tuple[Mechanism, ...]:
        return merged([*self.before, Mechanism(self.sample_rate, sigma, self.steps)])

    def bound(self, sigma: float) -> float:
        """A quick upper bound on the cost, up to what PRV adds by itself."""
        orders = ORDERS[::6] if self.order is None else (self.order,)
        return rdp_epsilon(self.mechanisms(sigma), self.delta, orders)

    def cost(self, sigma: float, error: float = prv.EPSILON_ERROR) -> float:
        """Epsilon by PRV, or by the filter where that is more. PLD checks at the end.

        A larger `error` takes a coarser mesh and answers sooner, nearly the same.
        """
        mechanisms = self.mechanisms(sigma)
        mesh = prv.epsilon(mechanisms, self.delta, error) - error + prv.EPSILON_ERROR
        if self.order is None:
            return mesh
        return max(mesh, rdp_epsilon(mechanisms, self.delta, (self.order,)))

    def excess(self, sigma: float) -> float:
        """log(cost / target), about, and at most 2: also beyond the PRV's reach."""
        try:
            error = min(max(self.target / 100, prv.EPSILON_ERROR), 0.06)
            return min(math.log(self.cost(sigma, error) / self.target), 2.0)
        except PrivacyAccountingError:
            return 2.0

    def affordable(self, sigma: float) -> bool:
        """Whether the cost is at most the target."""
        return self.cost(sigma) <= self.target


@lru_cache(maxsize=256)
def _calibrate(search: _Search) -> float:
    from scipy.optimize import brentq

    high = _enough_noise(search)
    low = high / 1.25
    while search.excess(low) <= 0:
        low, high = low / 1.25, low
    root = brentq(
        lambda x: search.excess(math.exp(x)),
        math.log(low),
        math.log(high),
        xtol=min(1e-5, 0.3 / _GRID / high),
    )
    grid = _first(
        lambda tick: search.affordable(tick / _GRID), math.ceil(math.exp(root) * _GRID)
    )
    while _agreed(search.mechanisms(grid / _GRID), search.delta).published > (
        search.target
    ):
        grid += 1
    return grid / _GRID


def _first(holds: Callable[[int], bool], guess: int) -> int:
    """The smallest positive integer at which a monotone condition holds, near `guess`."""
    step = 1
    if holds(guess):
        above = guess
        while (below := max(above - step, 0)) > 0 and holds(below):
            above, step = below, 2 * step
    else:
        below = guess
        while not holds(above := below + step):
            below, step = above, 2 * step
    while above - below > 1:
        middle = (above + below) // 2
        if holds(middle):
            above = middle
        else:
            below = middle
    return above


def _enough_noise(search: _Search) -> float:
    """A noise multiplier that costs less than the target, within a factor of two or so."""
    sigma = 0.25
    while search.bound(sigma) > search.target:
        sigma *= 1.25
        if sigma > _MAX_SIGMA:
            raise BudgetExhausted(
                f"no noise keeps {search.steps} steps at sample rate "
                f"{search.sample_rate:g} to epsilon {search.target:g} at delta "
                f"{search.delta:g} with what is spent already"
            )
    while not search.affordable(sigma):  # raises where PRV can't reach: say so
        sigma *= 1.25
        if sigma > _MAX_SIGMA:
            raise BudgetExhausted(
                f"epsilon {search.target:g} at delta {search.delta:g} is less than what "
                "is spent already"
            )
    return sigma
