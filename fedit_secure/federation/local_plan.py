"""What a charter says of the adapter and of its tuning in each silo."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from fedit_secure.federation.aggregation import Aggregation
from fedit_secure.federation.document import Hex32, Line, Part, absent_if_none
from fedit_secure.federation.update import MOST_DIMENSIONS

Count = Annotated[int, Field(ge=1, le=2**31)]
Shape = Annotated[tuple[Count, ...], Field(max_length=MOST_DIMENSIONS)]


def _paper(value: Any) -> Any:
    return None if value == "fedit" else value


class Lora(Part):
    """The LoRA configuration. `targets` is "all-linear" or a list of module names.

    `aggregation`: which factors a round tunes and which of them it releases; None, or
    "fedit" in a plan, is the paper's: both.
    """

    rank: Annotated[int, Field(ge=1, le=4096)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Literal["all-linear"] | tuple[Line, ...] = "all-linear"
    aggregation: Annotated[Aggregation | None, BeforeValidator(_paper)] = (
        absent_if_none()
    )


class Adapter(Lora):
    """LoRA with the ordered (name, shape) of its tensors and its initial state's
    digest.

    `personal_since`, of aggregation "fedsa": the first epoch of the line that this one
    goes on with. A silo begins with the B that it kept in the last of these epochs in
    which it took part. None: every silo begins with the initial state's.
    """

    initial_digest: Hex32
    layout: Annotated[
        tuple[tuple[Line, Shape], ...], Field(min_length=1, max_length=100_000)
    ]
    personal_since: Count | None = absent_if_none()

    @model_validator(mode="after")
    def _personal(self) -> Self:
        if self.personal_since is not None and self.aggregation != "fedsa":
            raise ValueError("personal_since is for aggregation fedsa")
        return self


class Decay(Part):
    """How the learning rate falls over the rounds, from 1 to `final` times the planned.

    Along a line, or along half a cosine (arXiv 1608.03983) as Shepherd's local trainers
    and OpenFedLLM's rounds do.
    """

    kind: Literal["linear", "cosine"]
    final: Annotated[float, Field(ge=0, le=1)] = 0.1

    def factor(self, round: int, rounds: int) -> float:
        """What round (from 1) of `rounds` has of the planned rate."""
        done = (round - 1) / max(1, rounds - 1)
        if self.kind == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        return 1.0 + (self.final - 1.0) * done


class Tuning(Part):
    """The local optimiser, fresh each round, and its steps per round.

    LoRA's B has `b_rate_ratio` times the rate of A. `proximal` is FedProx's mu.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=1e3)]
    local_steps: Annotated[int, Field(ge=1, le=10**6)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[
        Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]
    ] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    decay: Decay | None = absent_if_none()
    b_rate_ratio: Annotated[float, Field(gt=0, le=1e3)] | None = absent_if_none()
    proximal: Annotated[float, Field(ge=0, le=1e3)] | None = absent_if_none()

    def rate_in(self, round: int, rounds: int) -> float:
        """The learning rate of a round, counted from 1."""
        fall = 1.0 if self.decay is None else self.decay.factor(round, rounds)
        return self.learning_rate * fall
