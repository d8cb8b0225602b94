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
or there is never a second charter. Where a ledger has charges from another one, of a lost
ledger or of a population that has some of its records, the filter decides from its first
charter on: those charges came before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.privacy.events import Intent, Opened
from fedit_secure.privacy.history import History
from fedit_secure.privacy.mechanisms import charges_event

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from fedit_secure.privacy.accountant import Epsilons
    from fedit_secure.privacy.plan import DpPlan


@dataclass(frozen=True, slots=True)
class Charge:
    """`times` charges of `steps` steps each, of one charter (its digest in hex).

    `planned`: how many the charter has in all. No noise: without privacy. `evaluation`:
    the noise multiplier of what each of them releases of the held-out units, if it does.
    """

    charter: str
    sample_rate: float
    noise_multiplier: float
    steps: int
    times: int
    planned: int
    evaluation: float | None = None

    def event(self, times: int | None = None) -> DpEvent:
        """What they release about the records at most, or what another number would."""
        count, noise = self.times if times is None else times, self.noise_multiplier
        return charges_event(
            self.sample_rate, noise, self.steps, count, self.evaluation
        )


@dataclass(frozen=True, slots=True)
class Charges:
    """All of a ledger's charges.

    `own`: by charter, in the order of their first. `order`: the filter's, fixed when the
    ledger was opened. `lost`: epsilon of what a lost ledger counts as, inf if nothing
    bounds it. `inherited`: the last entry of each source.
    """

    own: tuple[Charge, ...]
    order: float
    lost: float = 0.0
    inherited: tuple[Inherited, ...] = ()

    @classmethod
    def of(cls, history: History, length: int) -> Charges:
        """Those in a ledger's first `length` entries."""
        own = (
            Charge(
                charter=first.charter,
                sample_rate=first.sample_rate,
                noise_multiplier=first.noise_multiplier,
                steps=first.steps,
                times=history.count((Intent, first.charter), length),
                planned=first.charges,
                evaluation=first.evaluation_noise,
            )
            for first in history.charters(length)
        )
        lost, inherited, opened = 0.0, {}, history.events[0]
        for event in history.of(Lost, length):
            if isinstance(event, Lost):
                lost += math.inf if event.epsilon is None else event.epsilon
        for event in history.of(Inherited, length):
            if isinstance(event, Inherited):
                inherited[event.source] = event
        assert isinstance(opened, Opened)
        return cls(tuple(own), opened.filter_order, lost, tuple(inherited.values()))

    @property
    def carried_over(self) -> float:
        """The epsilon that no accountant can compose: it is added to what they say."""
        known = (math.inf if i.lost is None else i.lost for i in self.inherited)
        return self.lost + sum(known)

    @property
    def unbounded(self) -> bool:
        """Whether anything was released without privacy."""
        return (
            any(not charge.noise_multiplier for charge in self.own)
            or any(not c.noise_multiplier for i in self.inherited for c in i.charges)
            or self.carried_over == math.inf
        )

    def event(self) -> DpEvent:
        """The composition of all charges, whatever became of them."""
        return _composed([charge.event() for charge in self.own] + self._inherited())

    def spent(self, delta: float) -> Epsilons:
        """The epsilons so far: an odometer, and always a figure.

        What was lost counts in full at `delta`, and so does the rest: by composition
        their sum holds at twice that delta.
        """
        from fedit_secure.privacy.accountant import spent_epsilons

        found, more = spent_epsilons(self.event(), delta), self.carried_over
        if not more:
            return found
        parts = (found.pld, found.prv)
        pld, prv = (None if part is None else part + more for part in parts)
        return replace(found, pld=pld, prv=prv, rdp=found.rdp + more)

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
        counted = self._inherited()
        counted += [charge.event() for charge in self.own[1:]]
        if self.own:
            counted.append(self.own[0].event(self.own[0].planned))
        left = plan.charges - self._of(charter)
        if left > 0 and not (self.own and charter == self.own[0].charter):
            counted.append(plan.event_of(left))
        # Each record is in this population alone or in a source as well, and its order
        # was fixed before its first release either way.
        whole = _composed(counted)
        most = max(filter_epsilon(whole, order, delta) for order in self.orders)
        return most + self.carried_over

    @property
    def orders(self) -> tuple[float, ...]:
        """Every filter order that a record here may have: the costliest decides."""
        return tuple(sorted({self.order, *(i.filter_order for i in self.inherited)}))

    def fixed_beforehand(self, charter: str | None) -> bool:
        """Whether nothing but this charter was ever charged: no filter is needed."""
        carried = self.inherited or self.lost
        return not carried and all(charge.charter == charter for charge in self.own)

    def _inherited(self) -> list[DpEvent]:
        return [charge.event() for i in self.inherited for charge in i.charges]

    def _of(self, charter: str | None) -> int:
        return sum(c.times for c in self.own if c.charter == charter)


def _composed(events: Iterable[DpEvent]) -> DpEvent:
    from dp_accounting import ComposedDpEvent

    return ComposedDpEvent(list(events))
