"""A silo's held-out units: never tuned on, and scored on the state that a round starts from.

Two figures come of them. The silo's own, without noise, stays in the silo. The released
one, where the charter asks for it, is clipped, noised and charged (`privacy.evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import OnFigure, OwnFigure
from fedit_secure.tuning.records import Record

if TYPE_CHECKING:
    from fedit_secure.tuning.local_round import ReadyRound


@dataclass(frozen=True, slots=True)
class HeldOut:
    """`examples`: slot i is record i. `units`: the slots of each unit that is held out."""

    examples: Sequence[Example]
    units: tuple[Slots, ...]


def set_apart(
    records: Sequence[Record],
    examples: Sequence[Example],
    units: Sequence[Slots] | None,
) -> tuple[list[Example], HeldOut]:
    """What is tuned on, and what is held out.

    A held-out unit keeps its slots and its coin in tuning, and has no label there: its
    gradient is zero. So whether a unit is held out is the silo's own affair: the number
    of units, the sample rate and everybody else's coins are the same.

    Args:
        records: all of the silo's, as `load_records` marks them.
        examples: one for each.
        units: of all records (`units.planned_units`); None where each record is one.

    Returns:
        The examples to tune on, slot for slot, and the held-out units.
    """
    each = units or [np.array([slot], np.int64) for slot in range(len(records))]
    # All records of a person are held out, or none is.
    apart = tuple(slots for slots in each if records[int(slots[0])].held_out)
    tuned = [
        replace(example, first_label=len(example.tokens))
        if record.held_out
        else example
        for record, example in zip(records, examples, strict=True)
    ]
    return tuned, HeldOut(examples, apart)


def evaluate(
    ready: ReadyRound,
    held_out: HeldOut | None,
    plan: EvaluationPlan | None,
    *,
    noise_key: bytes,
    on_figure: OnFigure = lambda figure: None,
    on_batch: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.float32]:
    """Score what is held out, before the round is run and once its charge is durable.

    Args:
        ready: the round, whose adapter is the state that it starts from.
        held_out: None for nothing.
        plan: None where nothing of it is released.
        noise_key: 32 secret bytes, for this alone.
        on_figure: told the silo's own figure.
        on_batch: called after every batch.

    Returns:
        float32: what goes behind the update: one number, or none.
    """
    if held_out is None:
        return np.empty(0, np.float32)
    nlls = score_units(ready, held_out, on_batch)
    on_figure(own_figure(nlls))
    if plan is None:
        return np.empty(0, np.float32)
    return np.array([released_figure(nlls, plan, noise_key)], np.float32)


def score_units(
    ready: ReadyRound, held_out: HeldOut, on_batch: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float64]:
    """Each held-out unit's mean response NLL under the state that the round starts from.

    A person's is the mean over the person's records. Call it before the round is run.

    Returns:
        float64, shape (units,): NaN for a unit without a response token.

    Raises:
        MemoryError and torch's own: the round's trial had room for more than this takes.
    """
    from fedit_secure.tuning.record_nlls import record_nlls

    examples = held_out.examples
    units = [s[[examples[i].labels > 0 for i in s]] for s in held_out.units]
    slots = np.concatenate([np.empty(0, np.int64), *units])
    nlls = record_nlls(
        ready.model,
        examples,
        slots,
        ready.packing,
        selective=ready.selective,
        on_progress=lambda done, of: on_batch(),
    )
    means = [nlls[own].mean() if len(own) else math.nan for own in units]
    return np.array(means, np.float64)


def own_figure(nlls: npt.NDArray[np.float64]) -> OwnFigure:
    """What the silo itself may know: nothing is clipped, and nothing is noised."""
    known = nlls[np.isfinite(nlls)]
    mean = float(known.mean()) if len(known) else None
    return OwnFigure(nll=mean, units=len(known), unscored=len(nlls) - len(known))


def clipped_sum(nlls: npt.NDArray[np.float64], plan: EvaluationPlan) -> float:
    """The sum before the noise. One unit, there or not, moves it by C/2 at most.

    A unit without a finite figure, as one without response tokens, contributes zero: as
    if it weren't there.
    """
    counted = np.clip(nlls, 0.0, plan.clip) - plan.middle
    return math.fsum(np.where(np.isfinite(nlls), counted, 0.0).tolist())


def released_figure(
    nlls: npt.NDArray[np.float64], plan: EvaluationPlan, noise_key: bytes
) -> np.float32:
    """What leaves in the release's last coordinate: in nats, counted from C/2.

    `noise_key`: 32 secret bytes, for this alone.
    """
    total = np.array([clipped_sum(nlls, plan)])
    if plan.noise_multiplier:
        noise = CryptoNoise(noise_key)
        total = noise.add_grid_noise(total, 0, plan.noise_multiplier, plan.bound)
    return np.float32(total[0] / plan.expected)
