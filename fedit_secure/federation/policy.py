"""A silo's own limits, and whether a charter's terms keep to them.

A charter may ask for less than the policy allows, never for more. What it would cost, and
whether the caps have room for that, is in `admission.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import Hex32, Part
from fedit_secure.federation.hours import Hours
from fedit_secure.federation.windows import Window

UNITS_PER_DELTA = 10


def _one_of_each_length(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    days = [window.days for window in windows]
    for length in days:
        if days.count(length) > 1:
            raise ValueError(f"names the window of {length} days twice")
    return windows


class Policy(Part):
    """policy.yaml. `epsilon` at `delta` is what the population may ever cost.

    Both may be left out only where `allow_without_dp` is set. `epsilon_per_run` caps one
    charter's whole plan and `windows` the last days, both at `delta` too; `hours` are
    those in which a round's tuning may begin, any if None. `max_lost_charges` is the
    number of charged rounds, per run, that may end without a released sum.
    `tell_record_count` is about the number of records and of persons alike;
    `require_person_unit` refuses charters that protect single records only.
    """

    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    epsilon_per_run: Annotated[float, Field(gt=0)] | None = None
    windows: Annotated[
        tuple[Window, ...], Field(max_length=16), AfterValidator(_one_of_each_length)
    ] = ()
    hours: Hours | None = None
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
        if self.epsilon is None and (self.windows or self.epsilon_per_run):
            raise ValueError("epsilon_per_run and windows need epsilon and delta")
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
        drawn = f", of {params.silos} a round" if charter.silos_per_round else ""
        raise PolicyRefusal(
            f"the charter lets {params.minimum} silos make a sum{drawn}, and this silo's "
            f"policy asks for at least {policy.minimum_silos} (minimum_silos)"
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
