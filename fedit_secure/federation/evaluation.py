"""Silo-side evaluation that goes through the secure sum: its terms, and its coordinate.

A silo that evaluates puts one number behind its update: how its held-out units' clipped
NLL differs from the middle of the clip, noised (`privacy.evaluation`). It is the last
coordinate of a release. So it is masked, tagged, agreed on, published and certified as the
rest, it costs no message, and whoever holds the sum reads the same mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field

from fedit_secure.errors import ConfigError
from fedit_secure.federation.document import Part
from fedit_secure.federation.local_plan import Count
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.mechanisms import PrivacyAccountingError
from fedit_secure.secagg.params import SecAggParams

_DEVIATIONS = 8.0
"""How much noise fits the coordinate: a normal is beyond it once in 10^15."""

_INSIDE = 1.0 - 2.0**-20
"""So that float32 can't round a full coordinate beyond the bound of the update."""

Clip = Annotated[float, Field(gt=0, le=1000)]
Noise = Annotated[float, Field(ge=0, le=1e6)]


class Evaluation(Part):
    """What every silo's evaluation has in common: C in nats, and the noise multiplier."""

    clip: Clip
    noise_multiplier: Noise


class PlannedEvaluation(Part):
    """The plan's. `held_out`: the units of each silo of which the plan's `silos` tells none.

    A silo for which neither does isn't evaluated. Without a `noise_multiplier` the noise
    is such that all evaluations by themselves would cost `epsilon_share` of epsilon; what
    they cost beside the tuning is much less, for costs add up like squares.
    """

    clip: Clip = 10.0
    noise_multiplier: Noise | None = None
    epsilon_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    held_out: Count | None = None

    def terms(
        self, epsilon: float | None, delta: float | None, charges: int
    ) -> Evaluation:
        """As the charter says them, of a run of so many charges at epsilon and delta.

        Both are None without differential privacy: then there is no noise. Raises
        ConfigError for a share that no noise keeps to.
        """
        noise = self.noise_multiplier
        if noise is None:
            share = self.epsilon_share * (epsilon or 0.0)
            noise = _noise_for(share, delta, charges) if delta else 0.0
        return Evaluation(clip=self.clip, noise_multiplier=noise)


@dataclass(frozen=True, slots=True)
class Reading:
    """The mean response NLL of a round's held-out units, as the sum tells it, in nats.

    The state that it is of is the one that the round began with. `deviation` is the
    standard deviation of the noise in it; `silos` are those that evaluated.
    """

    nll: float
    deviation: float
    silos: int

    def __str__(self) -> str:
        return f"{self.nll:.3f} ± {1.96 * self.deviation:.3f}"


@lru_cache(maxsize=64)
def _noise_for(epsilon: float, delta: float, charges: int) -> float:
    # A second to import, and reading a plan needs none of it.
    from fedit_secure.privacy.accountant import calibrate

    try:
        return calibrate(epsilon, delta, 1.0, charges)
    except (ValueError, PrivacyAccountingError) as error:
        raise ConfigError(f"the plan's 'evaluation.epsilon_share': {error}") from error


def check_rows(
    evaluation: Evaluation | None, held_out: Sequence[int | None], *, private: bool
) -> None:
    """Raises ValueError unless the silos' rows go with the charter's evaluation."""
    told = sum(count is not None for count in held_out)
    if evaluation is None:
        if told:
            raise ValueError("a row has held_out, and the charter evaluates nothing")
    elif not told:
        raise ValueError("the charter evaluates, and no silo has held_out")
    elif not private and told < len(held_out):
        # Its figure has no noise, and would be the sum by itself.
        raise ValueError(
            "without differential privacy either all silos evaluate or none does"
        )


def span(evaluation: Evaluation, held_out: Iterable[int | None]) -> float:
    """What a full coordinate stands for, in nats: all clipped units and the noise fit.

    `held_out`: the expected units of each silo of the charter, None for one that doesn't
    evaluate.
    """
    plans = (plan_of(evaluation, count) for count in held_out)
    most = max(plan.deviation for plan in plans if plan is not None)
    return evaluation.clip / 2 + _DEVIATIONS * most


def plan_of(
    evaluation: Evaluation | None, held_out: int | None
) -> EvaluationPlan | None:
    """One silo's plan; None where it evaluates nothing."""
    if evaluation is None or held_out is None:
        return None
    return EvaluationPlan(evaluation.clip, evaluation.noise_multiplier, held_out)


def coordinate(figure: float, full: float, bound: float) -> np.float32:
    """A silo's noised figure as the release's last coordinate.

    Beyond `full` (see `span`) it is cut, which is post-processing. `bound` is the
    update's, S.
    """
    share = min(1.0, max(-1.0, figure / full))
    return np.float32(share * bound * _INSIDE)


def reading(
    last: int,
    params: SecAggParams,
    contributors: Sequence[int],
    plans: Sequence[EvaluationPlan | None],
    full: float,
) -> Reading | None:
    """What the last integer of a verified sum says; None if no contributor evaluated.

    Silos count by their weights, as their updates do.

    Args:
        last: of the sum over `contributors`, roster indices.
        params: of the release.
        plans: every silo's, in roster order.
        full: see `span`.
    """
    own = [(params.weights[i], plan) for i in contributors if (plan := plans[i])]
    weight = sum(w for w, _ in own)
    if not own:
        return None
    share = last * max(params.weights) / (params.magnitude * weight * _INSIDE)
    noise = math.sqrt(math.fsum((w * plan.deviation) ** 2 for w, plan in own))
    return Reading(own[0][1].middle + share * full, noise / weight, len(own))
