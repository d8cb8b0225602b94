"""What a ledger's charges cost together, and with a plan that is asked for.

Within one charter the plan is fixed before its first record is drawn, so its cost is
max(PLD, PRV) of the whole plan, spares included. Charters that come after it may have
been chosen in the light of what it released, where only a Renyi filter holds. So: a
population's first charter is admitted if its plan's published epsilon is within the cap.
From the second charter on, the filter's epsilon, at the order fixed in the opening entry,
must be within the cap over everything: the first charter's *whole* plan, even if it
stopped early (it claims its plan's epsilon either way), every other charge, and what
remains of the charter asked for. Counting the first plan whole is the conservative
reading: either it fits the filter, and then everything ever charged is under the filter,
or there is never a second charter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedit_secure.privacy.mechanisms import steps_event

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from fedit_secure.privacy.accountant import Epsilons
    from fedit_secure.privacy.plan import DpPlan


@dataclass(frozen=True, slots=True)
class Charge:
    """`times` charges of `steps` steps each, of one charter (its digest in hex).

    `planned`: how many the charter has in all. No noise: without privacy.
    """

    charter: str
    sample_rate: float
    noise_multiplier: float
    steps: int
    times: int
    planned: int

    def event(self, times: int | None = None) -> DpEvent:
        """What they release about the records at most, or what another number would."""
        count = self.times if times is None else times
        return steps_event(self.sample_rate, self.noise_multiplier, self.steps * count)


@dataclass(frozen=True, slots=True)
class Charges:
    """All of a ledger's charges, by charter in the order of their first.

    `order`: the filter's, fixed when the ledger was opened.
    """

    own: tuple[Charge, ...]
    order: float

    @property
    def unbounded(self) -> bool:
        """Whether anything was released without privacy."""
        return any(not charge.noise_multiplier for charge in self.own)

    def event(self) -> DpEvent:
        """The composition of all charges, whatever became of them."""
        return _composed(charge.event() for charge in self.own)

    def spent(self, delta: float) -> Epsilons:
        """The epsilons so far: an odometer, and always a figure."""
        from fedit_secure.privacy.accountant import spent_epsilons

        return spent_epsilons(self.event(), delta)

    def with_plan(self, plan: DpPlan, charter: str | None, delta: float) -> float:
        """Epsilon after the plan's whole run: see the module.

        inf where anything had no privacy. Raises PrivacyAccountingError out of the
        accountants' reach.
        """
        from fedit_secure.privacy.accountant import epsilons
        from fedit_secure.privacy.renyi import filter_epsilon

        if plan.kind == "none" or self.unbounded:
            return math.inf
        if self.fixed_beforehand(charter):
            return epsilons(plan.run_event(), delta).published
        counted = [charge.event() for charge in self.own[1:]]
        if self.own:
            counted.append(self.own[0].event(self.own[0].planned))
        left = plan.charges - self._of(charter)
        if left > 0 and not (self.own and charter == self.own[0].charter):
            counted.append(plan.event_of(left))
        return filter_epsilon(_composed(counted), self.order, delta)

    def fixed_beforehand(self, charter: str | None) -> bool:
        """Whether nothing but this charter was ever charged: no filter is needed."""
        return all(charge.charter == charter for charge in self.own)

    def _of(self, charter: str | None) -> int:
        return sum(c.times for c in self.own if c.charter == charter)


def _composed(events: Iterable[DpEvent]) -> DpEvent:
    from dp_accounting import ComposedDpEvent

    return ComposedDpEvent(list(events))
