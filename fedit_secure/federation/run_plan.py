"""What a coordinator decides about a run: the content of plan.yaml."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from fedit_secure.federation.charter import Schedule
from fedit_secure.federation.document import Address, Line, Name, Part
from fedit_secure.federation.evaluation import Evaluation, PlannedEvaluation, plan_of
from fedit_secure.federation.local_plan import Count, Lora, Tuning
from fedit_secure.federation.participation import Participation
from fedit_secure.federation.server_rules import FedAvg, UpdateRule
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.plan import Unit

DEFAULT_RECORDS_PER_PERSON = 16
"""Of a person's records, how many take part. It costs no privacy: all of them share one
clip. More of them only average that person's gradient better, at that much more time."""

Weights = Literal["equal", "records", "persons"] | dict[Name, Count]
"""Of the silos' updates. Those by number go by the units': persons' records stay untold."""


class PlannedDp(Part):
    """The plan's privacy part. `sample_rate` is for secret sizes, common to all silos.

    `expected_batch` is one number for all silos, or one for each by name; it counts
    units. `unit` is by default the person where every silo's card says that its data
    names persons, else the record. `records_per_person`, for unit "person", is by
    default DEFAULT_RECORDS_PER_PERSON.
    """

    kind: Literal["local", "none"] = "local"
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] = 1.0
    expected_batch: Count | dict[Name, Count]
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    sizes: Literal["public", "secret"] = "public"
    spare_charges: Annotated[int, Field(ge=0, le=1000)] = 1
    unit: Unit | None = None
    records_per_person: Count | None = None


class PlannedSecAgg(Part):
    """The plan's secure aggregation part; what is left out follows from the roster."""

    corrupt: Annotated[int, Field(ge=0)] | None = None
    minimum: Annotated[int, Field(ge=0)] = 0
    ring_bits: Literal[24, 32] | None = None
    bound: Annotated[float, Field(gt=0)] | None = None
    allow_pair: bool = False


class PlannedSilo(Part):
    """What a silo's operator told of the silo beside its card."""

    records: Count | None = None
    persons: Count | None = None
    held_out: Count | None = None


class PlannedLora(Lora):
    """LoRA, and how a new adapter's A begins; a charter has the result's digest.

    `init`: "random", or "own-text" for the main directions of each layer's inputs in text
    that the base model writes by itself.
    """

    init: Literal["random", "own-text"] = "random"


class RunTerms(Part):
    """What is decided about a run of daemons and about a simulated one alike.

    `seed` draws the initial adapter and the text of its own; it is public.
    """

    base_model: Line
    template: Line = "alpaca"
    max_tokens: Annotated[int, Field(ge=8, le=1 << 20)] = 512
    lora: PlannedLora = PlannedLora()
    tuning: Tuning
    rounds: Count
    participation: Participation = 1.0
    dp: PlannedDp
    secagg: PlannedSecAgg = PlannedSecAgg()
    weights: Weights = "equal"
    update_rule: UpdateRule = FedAvg()
    schedule: Schedule = Schedule()
    evaluation: PlannedEvaluation | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class RunPlan(RunTerms):
    """What the coordinator decides: the terms, for whom, where and until when."""

    federation: Name
    run: Name
    aggregator: Address
    expires: date
    silos: dict[Name, PlannedSilo] = Field(default_factory=dict)

    def evaluation_of(self, name: str) -> EvaluationPlan | None:
        """A silo's evaluation, as the charter will have it; None where there is none."""
        told = self.silos.get(name, PlannedSilo()).held_out
        if told is None and self.evaluation is not None:
            told = self.evaluation.held_out
        return plan_of(self.terms_of_evaluation(), told)

    def terms_of_evaluation(self) -> Evaluation | None:
        """What all silos' evaluations have in common; None where there is none.

        Raises ConfigError as `PlannedEvaluation.terms`.
        """
        if self.evaluation is None:
            return None
        dp, charges = self.dp, self.rounds + self.dp.spare_charges
        private = dp.kind != "none" and dp.epsilon is not None
        return self.evaluation.terms(
            dp.epsilon if private else None, dp.delta if private else None, charges
        )
