"""DpPlan: one frozen object yields the training step's arguments AND its DpEvent.

They can't drift apart: whoever tunes takes `step_arguments()`, whoever accounts takes
`round_event()` or `run_event()`, of the same object. Importing this module costs
milliseconds; dp-accounting is imported when an event is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.mechanisms import charges_event, steps_event

if TYPE_CHECKING:
    from dp_accounting import DpEvent, NeighboringRelation

    from fedit_secure.privacy.accountant import Epsilons

Kind = Literal["local", "none"]
Unit = Literal["record", "person"]
Sizes = Literal["public", "secret"]

COUNTED: dict[Unit, Literal["records", "persons"]] = {
    "record": "records",
    "person": "persons",
}
"""What a unit's number is a number of, for sentences and field names."""


@dataclass(frozen=True, slots=True)
class StepArguments:
    """What one round's DP-SGD steps need; `clip` is None, and no noise added, without DP.

    Each step draws every unit with probability `sample_rate`, clips its gradient (a
    person's: the sum over that person's records) to L2 norm `clip`, adds
    N(0, (noise_multiplier * clip)^2) to every coordinate of the sum, and divides by
    `expected_batch`, a public constant. Exactly `steps` steps.
    """

    sample_rate: float
    noise_multiplier: float
    clip: float | None
    expected_batch: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DpPlan:
    """One silo's DP-SGD plan for a whole run, fixed before the first record is drawn.

    Args:
        kind: "local" (noise at each silo), or "none": no clip, no noise, no guarantee.
        sample_rate: q, each unit's probability of being in a step's batch, in (0, 1].
        noise_multiplier: sigma, the noise's standard deviation in units of the clip.
        clip: C, the L2 bound on one unit's gradient. Unused without DP.
        expected_batch: B-bar, in units; the public constant that sums are divided by.
        local_steps: DP-SGD steps of one round.
        rounds: federated rounds of the run.
        spare_charges: rounds' worth of budget beyond them, for lost updates.
        delta: the guarantee's delta; None only without DP.
        target_epsilon: what sigma was calibrated to, where that is known.
        unit: what one guarantee covers: a record, or a person with all their records.
        sizes: whether the number of units is public (then a unit is zeroed out
            between neighbours) or secret (then it is added or removed).
        records_per_person: k, the most records that a person takes part with; None for
            unit "record". It bounds time, and costs no privacy: the clip does that.
        evaluation: what each round releases of the held-out units; None for nothing.

    Raises:
        ValueError: a parameter is out of range; one sentence that names it.
    """

    kind: Kind = "local"
    sample_rate: float
    noise_multiplier: float
    clip: float
    expected_batch: int
    local_steps: int
    rounds: int
    spare_charges: int = 1
    delta: float | None
    target_epsilon: float | None = None
    unit: Unit = "record"
    sizes: Sizes = "public"
    records_per_person: int | None = None
    evaluation: EvaluationPlan | None = None

    def __post_init__(self) -> None:
        _require_choice("kind", self.kind, ("local", "none"))
        _require_choice("unit", self.unit, ("record", "person"))
        _require_choice("sizes", self.sizes, ("public", "secret"))
        for name in ("sample_rate", "noise_multiplier", "clip"):
            object.__setattr__(self, name, _real(name, getattr(self, name)))
        for name in ("delta", "target_epsilon"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _real(name, getattr(self, name)))
        for name, least in (
            ("expected_batch", 1),
            ("local_steps", 1),
            ("rounds", 1),
            ("spare_charges", 0),
        ):
            _require_count(name, getattr(self, name), least)
        self._check_unit()
        self._check_ranges()

    def _check_unit(self) -> None:
        if self.unit == "record":
            if self.records_per_person is not None:
                raise ValueError("records_per_person is for a plan per person")
        elif self.records_per_person is None:
            raise ValueError("a plan per person needs records_per_person")
        else:
            _require_count("records_per_person", self.records_per_person, 1)

    def _check_ranges(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate is {self.sample_rate}, not in (0, 1]")
        if self.clip <= 0:
            raise ValueError(f"clip is {self.clip}, but must be positive")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}, not between 0 and 1")
        if self.target_epsilon is not None and self.target_epsilon <= 0:
            raise ValueError(
                f"target_epsilon is {self.target_epsilon}, but must be positive"
            )
        if self.kind == "local":
            if self.noise_multiplier <= 0:
                raise ValueError(
                    f"noise_multiplier is {self.noise_multiplier}, but a plan of kind "
                    "'local' needs noise"
                )
            if self.delta is None:
                raise ValueError("a plan of kind 'local' needs a delta")
            if self.evaluation is not None and not self.evaluation.noise_multiplier:
                raise ValueError("the evaluation of a plan of kind 'local' needs noise")
        elif self.evaluation is not None and self.evaluation.noise_multiplier:
            raise ValueError("the evaluation of a plan of kind 'none' has no noise")
        elif self.noise_multiplier != 0 or self.target_epsilon is not None:
            raise ValueError(
                "a plan of kind 'none' has noise_multiplier 0 and no target_epsilon"
            )

    @classmethod
    def create(
        cls,
        *,
        target_epsilon: float,
        delta: float,
        sample_rate: float,
        clip: float,
        expected_batch: int,
        local_steps: int,
        rounds: int,
        spare_charges: int = 1,
        unit: Unit = "record",
        sizes: Sizes = "public",
        records_per_person: int | None = None,
        evaluation: EvaluationPlan | None = None,
        spent: DpEvent | None = None,
        filter_order: float | None = None,
    ) -> DpPlan:
        """The plan with the least noise that keeps to `target_epsilon`, spares included.

        What its `evaluation` costs is in it. `spent`, and `filter_order` with it, make that
        the budget that *remains*: see `accountant.calibrate`, whose errors this raises.
        """
        from fedit_secure.privacy.accountant import calibrate

        sigma = calibrate(
            target_epsilon,
            delta,
            sample_rate,
            (rounds + spare_charges) * local_steps,
            spent=_with_evaluation(spent, evaluation, rounds + spare_charges),
            filter_order=filter_order,
        )
        return cls(
            sample_rate=sample_rate,
            noise_multiplier=sigma,
            clip=clip,
            expected_batch=expected_batch,
            local_steps=local_steps,
            rounds=rounds,
            spare_charges=spare_charges,
            delta=delta,
            target_epsilon=target_epsilon,
            unit=unit,
            sizes=sizes,
            records_per_person=records_per_person,
            evaluation=evaluation,
        )

    @property
    def charges(self) -> int:
        """Rounds' worth of budget that the run may charge: its rounds and the spares."""
        return self.rounds + self.spare_charges

    @property
    def neighbouring_relation(self) -> NeighboringRelation:
        """Zero-out (`REPLACE_SPECIAL`) for public sizes, add-or-remove for secret."""
        from dp_accounting import NeighboringRelation

        if self.sizes == "public":
            return NeighboringRelation.REPLACE_SPECIAL
        return NeighboringRelation.ADD_OR_REMOVE_ONE

    def step_arguments(self) -> StepArguments:
        """The arguments of one round's training steps."""
        return StepArguments(
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            clip=self.clip if self.kind == "local" else None,
            expected_batch=self.expected_batch,
            steps=self.local_steps,
        )

    def round_event(self) -> DpEvent:
        """What one charge, a round's tuning and evaluation, releases about the units.

        Whatever the unit is, one of them is one coin and one vector of norm C at most:
        the event of persons at q, sigma and steps is that of records.
        """
        return self.event_of(1)

    def run_event(self, spares: int | None = None) -> DpEvent:
        """What the rounds and `spares` more (by default all of the plan's) release."""
        extra = self.spare_charges if spares is None else spares
        _require_count("spares", extra, 0)
        return self.event_of(self.rounds + extra)

    def event_of(self, charges: int) -> DpEvent:
        """What `charges` charges release: SelfComposed(PoissonSampled(Gaussian)), and as
        many Gaussian releases more where there is an evaluation.
        """
        _require_count("charges", charges, 1)
        noise, evaluation = self.noise_multiplier, self.evaluation
        extra = None if evaluation is None else evaluation.noise_multiplier
        steps = self.local_steps
        return charges_event(self.sample_rate, noise, steps, charges, extra)

    def epsilons(self, spares: int | None = None) -> Epsilons:
        """What the run costs at the plan's own delta, its spares (or this many) included.

        Raises what `accountant.epsilons` does.
        """
        from fedit_secure.privacy import accountant

        if self.delta is None:
            return accountant.Epsilons.same(math.inf)
        return accountant.epsilons(self.run_event(spares), self.delta)

    def as_dict(self) -> dict[str, Any]:
        """The plan as a JSON object; `from_dict` takes exactly this back."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.evaluation is not None:
            found["evaluation"] = self.evaluation.as_dict()
        return found

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> DpPlan:
        """The plan of `as_dict`'s object, every field named and no other.

        Raises ValueError naming a missing, unknown, mistyped or unusable field.
        """
        names = {field.name for field in fields(cls)}
        for missing in sorted(names - set(document)):
            raise ValueError(f"the plan lacks the field {missing!r}")
        for unknown in sorted(set(document) - names):
            raise ValueError(f"the plan has an unknown field {unknown!r}")
        own = document["evaluation"]
        evaluation = None if own is None else EvaluationPlan.from_dict(own)
        return cls(**{**document, "evaluation": evaluation})


def evaluation_event(noise_multiplier: float, times: int) -> DpEvent:
    """What so many evaluations release about the units, without the tuning beside them."""
    return steps_event(1.0, noise_multiplier, times)


def _with_evaluation(
    spent: DpEvent | None, evaluation: EvaluationPlan | None, times: int
) -> DpEvent | None:
    if evaluation is None:
        return spent
    from dp_accounting import ComposedDpEvent

    more = evaluation_event(evaluation.noise_multiplier, times)
    return more if spent is None else ComposedDpEvent([spent, more])


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(choices)}")


def _require_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}, not an integer")  # noqa: TRY004
    if not least <= value < 2**53:
        raise ValueError(f"{name} is {value}, but must be at least {least}")


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, not a number")  # noqa: TRY004
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, not a finite number")
    return float(value)
