"""What a charter would cost a silo, and whether every cap of its policy has room for it.

Pure: the same charter, policy, ledger and times always give the same answer. It comes
before anything is spent, when an operator approves and again before each charge.

Three caps, all at the ledger's delta, which is the policy's before there is a ledger. The
*lifetime* cap is the ledger's own or the policy's, whichever is lower, and it is the
guarantee. A cap *per run* is held against a charter's whole plan. A *window* is held
against all charges of its days and all that is left of the run, as if that came today:
by max(PLD, PRV) where all of them are this charter's, whose plan was fixed before any of
them, by the lifetime cap's Renyi filter where they aren't.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.policy import Policy, check_terms
from fedit_secure.federation.windows import ChargeTimes, Window
from fedit_secure.privacy.caps import LIFETIME, PER_RUN, PUBLISHED, SLACK, Cap

if TYPE_CHECKING:
    from fedit_secure.privacy.events import Intent
    from fedit_secure.privacy.ledger import Ledger
    from fedit_secure.privacy.plan import DpPlan

# The accountants take a second to import, so each function that needs one imports it: most
# refusals come before.


_NEVER = ChargeTimes()  # no charge has a time: each counts as of now


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that asks for room: its plan, and its charter's digest in hex, None before
    there is one.
    """

    plan: DpPlan
    charter: str | None

    def charged(self, ledger: Ledger | None) -> int:
        """How many of its charges are made."""
        if ledger is None or self.charter is None:
            return 0
        return len(ledger.intents(self.charter))

    def left(self, ledger: Ledger | None) -> int:
        """How many it may still make."""
        return max(0, self.plan.charges - self.charged(ledger))


@dataclass(frozen=True, slots=True)
class Account:
    """Where one population stands: its ledger, None before its first charter, the times
    of its charges, and the policy that it is held to.
    """

    population: str
    policy: Policy
    ledger: Ledger | None
    times: ChargeTimes = _NEVER

    def delta(self, asked: Asked | None = None) -> float | None:
        """The delta of every cap; None where nobody set one."""
        if self.ledger is not None:
            return self.ledger.delta
        plan = None if asked is None else asked.plan.delta
        return self.policy.delta or plan

    @property
    def lifetime_limit(self) -> float:
        """The lower of the ledger's cap and the policy's; inf where there is none."""
        own = math.inf if self.ledger is None else self.ledger.cap_epsilon
        return min(own, self.policy.epsilon or math.inf)

    def caps(self, asked: Asked | None = None) -> tuple[Cap, ...]:
        """Every cap that there is, lifetime first, and what a run does to it.

        None without a delta, or for a run without DP, which no cap can hold. Raises
        PrivacyAccountingError where the run is out of the accountants' reach.
        """
        delta = self.delta(asked)
        if delta is None or (asked is not None and asked.plan.kind == "none"):
            return ()
        return (self._lifetime(asked, delta), *self.own_caps(asked, delta))

    def own_caps(self, asked: Asked | None, delta: float) -> tuple[Cap, ...]:
        """The caps that the ledger doesn't know: per run, and each window."""
        times = self.times.observed(0, self.ledger)
        per_run = self.policy.epsilon_per_run
        found = [] if per_run is None else [self._per_run(per_run, asked, delta)]
        found += [
            self._window(window, asked, delta, times) for window in self.policy.windows
        ]
        return tuple(found)

    def require_room(self, asked: Asked) -> None:
        """Hold the run against every cap, whether or not it is under way.

        Raises BudgetExhausted with the whole sum; PolicyRefusal for a run without DP that
        the policy doesn't allow, or that isn't of the ledger's unit or adjacency.
        """
        policy, ledger = self.policy, self.ledger
        if ledger is not None:
            ledger.require_budget(
                asked.plan,
                charter=asked.charter,
                cap_epsilon=policy.epsilon,
                allow_without_dp=policy.allow_without_dp,
            )
        elif asked.plan.kind == "none" and not policy.allow_without_dp:
            raise PolicyRefusal(
                "this silo's policy doesn't allow a run without differential privacy"
            )
        delta = self.delta(asked)
        if delta is None or asked.plan.kind == "none":
            return
        if ledger is None:
            self._lifetime(asked, delta).require()
        for cap in self.own_caps(asked, delta):
            cap.require()

    # ------------------------------------------------------------------------------ inside

    def _lifetime(self, asked: Asked | None, delta: float) -> Cap:
        ledger = self.ledger
        spent = 0.0 if ledger is None else ledger.spent().published
        cap = (self.population, LIFETIME, self.lifetime_limit, delta, spent)
        if asked is None:
            return Cap(*cap)
        alone = _whole(asked, delta)
        if ledger is None:
            return Cap(*cap, alone, alone)
        after = ledger.would_cost(asked.plan, charter=asked.charter)
        return Cap(*cap, alone, after, ledger.counted_by(asked.charter))

    def _per_run(self, limit: float, asked: Asked | None, delta: float) -> Cap:
        """`spent` is this run's charges; without a run, the costliest charter's plan."""
        from fedit_secure.privacy.accountant import spent_epsilons

        if asked is None:
            spent = max((_plan_of(i, delta) for i in self._plans()), default=0.0)
            return Cap(self.population, PER_RUN, limit, delta, spent)
        charged, alone = asked.charged(self.ledger), _whole(asked, delta)
        spent = (
            spent_epsilons(asked.plan.event_of(charged), delta).published
            if charged
            else 0.0
        )
        return Cap(self.population, PER_RUN, limit, delta, spent, alone, alone)

    def _plans(self) -> list[Intent]:
        """One intent of each charter."""
        charges = () if self.ledger is None else self.ledger.intents()
        return list({intent.charter: intent for intent in charges}.values())

    def _window(
        self, window: Window, asked: Asked | None, delta: float, times: ChargeTimes
    ) -> Cap:
        recent = times.within(window.days)
        charges = () if self.ledger is None else self.ledger.intents()
        charges = charges[len(charges) - recent :]
        spent, _ = self._together(charges, None, delta)
        cap = (self.population, window.covers, window.epsilon, delta, spent)
        if asked is None:
            return Cap(*cap)
        return Cap(*cap, _whole(asked, delta), *self._together(charges, asked, delta))

    def _together(
        self, charges: tuple[Intent, ...], asked: Asked | None, delta: float
    ) -> tuple[float, str]:
        """Epsilon of some charges and of what is left of a run, and who counted it."""
        from dp_accounting import ComposedDpEvent

        from fedit_secure.privacy.accountant import spent_epsilons
        from fedit_secure.privacy.renyi import filter_epsilon

        events = [intent.event() for intent in charges]
        charters: set[str | None] = {intent.charter for intent in charges}
        if asked is not None and (left := asked.left(self.ledger)):
            events.append(asked.plan.event_of(left))
            charters.add(asked.charter)
        whole = ComposedDpEvent(events)
        if self.ledger is None or len(charters) <= 1:
            return spent_epsilons(whole, delta).published, PUBLISHED
        order = self.ledger.opened.filter_order
        by = f"the Renyi filter of order {order:g}"
        return filter_epsilon(whole, order, delta), by


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a charter costs a silo that may take part in it.

    All are epsilons at `delta`, infinite where records are or were used without DP.
    `run`: the whole plan, spares included. `spent`: every charge so far. `after`: once
    all of the plan is charged. `caps`: the same, cap by cap.
    """

    delta: float | None
    run: float
    spent: float
    after: float
    caps: tuple[Cap, ...] = ()


def admit(charter: Charter, name: str, account: Account) -> Admitted:
    """Holds a charter's whole run against the policy and what is left under each cap.

    Raises PolicyRefusal or BudgetExhausted with the reason; what was charged already may
    always be finished.
    """
    policy = account.policy
    check_terms(charter, name, policy)
    plan = charter.plan_for(name)
    if plan.kind == "none" or plan.delta is None:
        return Admitted(None, math.inf, math.inf, math.inf)
    claimed, run = charter.dp.epsilon or 0.0, plan.epsilons().published
    if run > claimed + SLACK:
        raise PolicyRefusal(
            f"the charter names epsilon {claimed:g}, but its noise for silo {name!r} gives "
            f"{run:.4g}"
        )
    if policy.delta is not None and plan.delta > policy.delta * (1 + SLACK):
        raise PolicyRefusal(
            f"the charter's delta is {plan.delta:g}, and this silo's policy allows at most "
            f"{policy.delta:g}"
        )
    asked = Asked(plan, charter.digest().hex())
    if asked.left(account.ledger):
        account.require_room(asked)
    caps = account.caps(asked)
    lifetime = caps[0]
    assert lifetime.after is not None
    return Admitted(lifetime.delta, run, lifetime.spent, lifetime.after, caps)


def _whole(asked: Asked, delta: float) -> float:
    """The run's whole plan by itself."""
    from fedit_secure.privacy.accountant import epsilons

    return epsilons(asked.plan.run_event(), delta).published


def _plan_of(intent: Intent, delta: float) -> float:
    """The whole plan of an intent's charter."""
    from fedit_secure.privacy.accountant import spent_epsilons

    return spent_epsilons(intent.event(intent.charges), delta).published
