"""A silo's own limits, and whether a charter keeps to them.

A charter may ask for less than the policy allows, never for more. The check is pure:
the same charter, policy and ledger always give the same answer, and it comes before
anything is spent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from fedit_secure.errors import BudgetExhausted, PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import Hex32, Part

if TYPE_CHECKING:
    from fedit_secure.privacy.ledger import Ledger

# Calibration keeps to its target only to the accountants' own rounding.
_SLACK = 1e-6
UNITS_PER_DELTA = 10


class Policy(Part):
    """policy.yaml. `epsilon` at `delta` is what the population may ever cost.

    Both may be left out only where `allow_without_dp` is set. `max_lost_charges` is the
    number of charged rounds, per run, that may end without a released sum.
    `tell_record_count` is about the number of records and of persons alike;
    `require_person_unit` refuses charters that protect single records only.
    """

    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    minimum_silos: Annotated[int, Field(ge=1)] = 3
    allowed_base_models: Literal["any"] | tuple[Hex32, ...] = "any"
    max_local_steps: Annotated[int, Field(ge=1)] = 10_000
    max_lost_charges: Annotated[int, Field(ge=0)] = 1
    tell_record_count: bool = False
    require_person_unit: bool = False
    allow_without_dp: bool = False
    allow_pair: bool = False

    @model_validator(mode="after")
    def _a_budget_or_none(self) -> Self:
        if (self.epsilon is None) != (self.delta is None):
            raise ValueError("epsilon and delta belong together")
        if self.epsilon is None and not self.allow_without_dp:
            raise ValueError("without allow_without_dp, epsilon and delta are needed")
        return self


def check_terms(charter: Charter, name: str, policy: Policy) -> None:
    """Raises PolicyRefusal unless the policy allows what the charter fixes."""
    row, params = charter.row(name), charter.secagg_params()
    if charter.dp.kind == "none" and not policy.allow_without_dp:
        raise PolicyRefusal(
            "the charter tunes without differential privacy, and this silo's policy "
            "doesn't set allow_without_dp"
        )
    if params.silos == 2 and not policy.allow_pair:
        raise PolicyRefusal(
            "in a federation of two each silo can subtract itself from the sum, and this "
            "silo's policy doesn't set allow_pair"
        )
    # A pair is allowed or not by its own switch, whatever the minimum.
    if params.silos > 2 and params.minimum < policy.minimum_silos:
        raise PolicyRefusal(
            f"the charter lets {params.minimum} silos make a sum, and this silo's policy "
            f"asks for at least {policy.minimum_silos}"
        )
    allowed = policy.allowed_base_models
    if allowed != "any" and charter.base_model.digest not in allowed:
        raise PolicyRefusal(
            f"the base model {charter.base_model.name!r} "
            f"({charter.base_model.digest[:16]}...) isn't among this silo's "
            "allowed_base_models"
        )
    if charter.tuning.local_steps > policy.max_local_steps:
        raise PolicyRefusal(
            f"the charter takes {charter.tuning.local_steps} local steps a round, and "
            f"this silo's policy allows {policy.max_local_steps}"
        )
    if policy.require_person_unit and charter.dp.unit != "person":
        raise PolicyRefusal(
            "the charter protects single records, and this silo's policy asks for persons "
            "(require_person_unit)"
        )
    if row.units is not None and not policy.tell_record_count:
        raise PolicyRefusal(
            f"the charter tells this silo's number of {charter.counted}, and its policy "
            "doesn't set tell_record_count"
        )


def check_delta(charter: Charter, units: int) -> None:
    """Raises PolicyRefusal unless delta is at most 1 / (10 * units).

    `units` are the silo's records, or its persons under a charter per person. A larger
    delta would allow publishing somebody's record outright now and then.
    """
    delta = charter.dp.delta
    if delta is not None and delta * UNITS_PER_DELTA * units > 1 + 1e-9:
        raise PolicyRefusal(
            f"the charter's delta {delta:g} is too large for this silo's data: it must be "
            f"at most 1/({UNITS_PER_DELTA} * {charter.counted})"
        )


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a charter costs a silo that may take part in it.

    All are epsilons at `delta`, infinite where records are or were used without DP.
    `run`: the whole plan, spares included. `spent`: every charge so far. `after`: once
    all of the plan is charged.
    """

    delta: float | None
    run: float
    spent: float
    after: float


def admit(
    charter: Charter, name: str, policy: Policy, ledger: Ledger | None
) -> Admitted:
    """Holds a charter's whole run against the policy and what the ledger has left.

    `ledger` is None before the population's first charter. Raises PolicyRefusal or
    BudgetExhausted with the reason; what was charged already may always be finished.
    """
    check_terms(charter, name, policy)
    plan = charter.plan_for(name)
    if plan.kind == "none" or plan.delta is None:
        return Admitted(None, math.inf, math.inf, math.inf)
    # The accountants take a second to import, and most refusals come before.
    from fedit_secure.privacy.accountant import epsilons

    claimed, run = charter.dp.epsilon or 0.0, plan.epsilons().published
    if run > claimed + _SLACK:
        raise PolicyRefusal(
            f"the charter names epsilon {claimed:g}, but its noise for silo {name!r} gives "
            f"{run:.4g}"
        )
    if policy.delta is not None and plan.delta > policy.delta * (1 + _SLACK):
        raise PolicyRefusal(
            f"the charter's delta is {plan.delta:g}, and this silo's policy allows at most "
            f"{policy.delta:g}"
        )
    if ledger is None:
        delta = plan.delta if policy.delta is None else policy.delta
        after = epsilons(plan.run_event(), delta).published
        if policy.epsilon is not None and after > policy.epsilon + _SLACK:
            raise BudgetExhausted(
                f"the run costs epsilon {after:.4g} at delta {delta:g}, and this silo's "
                f"policy allows {policy.epsilon:g} in all"
            )
        return Admitted(delta, run, 0.0, after)
    own = charter.digest().hex()
    if len(ledger.intents(own)) < plan.charges:
        ledger.require_budget(plan, charter=own, cap_epsilon=policy.epsilon)
    after = ledger.would_cost(plan, charter=own)
    return Admitted(ledger.delta, run, ledger.spent().published, after)
