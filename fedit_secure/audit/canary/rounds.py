"""Rounds of the production code on the canaries' model, and what is seen of them.

`prepare_round` and `run_round` are called as a silo's worker calls them. Nothing is
patched: what is seen is the adapter after every step, which progress is reported of, and
the update. With plain SGD from an adapter of zeros, its moves are the noised sums.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.canary.model import COORDINATES, CanaryModel
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning import local_round
from fedit_secure.tuning.adapter import read_adapter
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import OptimizerConfig, Progress

MOST_TOKENS = 32
"""Of a record here; longer texts are cut."""

# A power of two: dividing by it is exact. So small that canaries keep their length
# however many steps are taken.
_RATE = 2.0**-14
_TOKEN_BUDGET = 512
_BATCH = 64
_KEY_BYTES = 32
CLIP = 0.5
"""C. Not 1, with which a build that forgets it would be right."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a round showed.

    Attributes:
        sums: float64 (steps told, d): each step's noised sum, in clips, turned so that a
            canary adds its own direction.
        total: float64 (d,): what the whole update amounts to, likewise.
        told: steps reported as progress.
    """

    sums: npt.NDArray[np.float64]
    total: npt.NDArray[np.float64]
    told: int


def plan_of(
    *, rate: float, sigma: float, steps: int, delta: float = 1e-5, persons: int = 0
) -> DpPlan:
    """A plan of one round that is never repeated; per person where `persons` isn't 0."""
    return DpPlan(
        sample_rate=rate,
        noise_multiplier=sigma,
        clip=CLIP,
        expected_batch=_BATCH,
        local_steps=steps,
        rounds=1,
        spare_charges=0,
        delta=delta,
        unit="person" if persons else "record",
        records_per_person=persons or None,
    )


def fresh_key() -> bytes:
    """A noise key from the operating system, as the worker draws it."""
    return os.urandom(_KEY_BYTES)


def run(
    model: CanaryModel,
    examples: Sequence[Example],
    plan: DpPlan,
    *,
    noise_key: bytes | None = None,
    units: Sequence[Slots] | None = None,
) -> Seen:
    """One round from an adapter of zeros, under a fresh key unless one is given.

    Raises what `prepare_round` and `run_round` do.
    """
    tuned = model.tuned
    before = np.zeros(COORDINATES, np.float32)
    ready = local_round.prepare_round(
        tuned,
        plan,
        initial=before,
        max_tokens=MOST_TOKENS,
        token_budget=_TOKEN_BUDGET,
        unit_rows=plan.records_per_person or 1,
    )
    after: list[npt.NDArray[np.float32]] = [before]

    def look(_: Progress) -> None:
        after.append(read_adapter(tuned))

    update = local_round.run_round(
        ready,
        examples,
        OptimizerConfig(name="sgd", learning_rate=_RATE),
        noise_key=noise_key or fresh_key(),
        units=units,
        on_phase=look,
    )
    in_clips = plan.expected_batch / (_RATE * plan.clip)
    moves = np.diff(np.array(after, np.float64), axis=0)
    total = update.astype(np.float64)
    return Seen(moves * in_clips, total * in_clips, len(moves))
