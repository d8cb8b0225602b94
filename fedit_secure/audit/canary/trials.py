"""One trial a detector: a round, or a few, whose outcome a broken build changes.

Each says which plan and which records show a fault; `detections` says what is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.canary import detections as d
from fedit_secure.audit.canary.detections import Detection
from fedit_secure.audit.canary.model import (
    COORDINATES,
    CanaryModel,
    canary_example,
    left_out,
)
from fedit_secure.audit.canary.rounds import MOST_TOKENS, fresh_key, plan_of, run
from fedit_secure.privacy.events import Intent
from fedit_secure.privacy.mechanisms import mechanisms_of
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.records import Record

SIGMA = 1.5
STEPS = 5
"""Of the rounds that have several, here and in the worker."""

_QUIET = 0.002  # a sigma at which a single record can be read from a noised sum
_RATE = 0.25
_SAMPLED_RECORDS = 256
_SAMPLED_STEPS = 64
_PERSON = 3  # records

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Game:
    """The one-run audit's outcome, and the noise of the sum that was guessed from."""

    detection: Detection
    noise: Float64


def game_plan(delta: float) -> DpPlan:
    """What the one-run audit claims: everybody in one step, at SIGMA.

    At a larger epsilon than the three or so of this plan, not even guesses that are
    always right would refute it.
    """
    return plan_of(rate=1.0, sigma=SIGMA, steps=1, delta=delta)


def game(
    model: CanaryModel,
    texts: Sequence[Example],
    there: npt.NDArray[np.bool_],
    *,
    guesses: int,
    delta: float,
) -> Game:
    """Canaries by fair coins, among other records, in one noised sum.

    Who is left out keeps an empty slot, so the pair of neighbours is the one of public
    sizes: a record zeroed out.
    """
    canaries = [canary_example(k) for k in range(len(there))]
    present = [
        c if here else left_out(c) for c, here in zip(canaries, there, strict=True)
    ]
    seen = run(model, [*present, *texts], game_plan(delta))
    scores = model.rows[: len(there)] @ seen.total
    found = d.canary(there, scores, guesses=guesses, sigma=SIGMA, delta=delta)
    return Game(found, model.outside(seen.total[None]))


def noise_of_steps(model: CanaryModel, texts: Sequence[Example]) -> Float64:
    """The noise of every step of two attempts, on the same records."""
    plan = plan_of(rate=_RATE, sigma=SIGMA, steps=STEPS)
    attempts = [run(model, texts, plan).sums for _ in range(2)]
    return model.outside(np.concatenate(attempts))


def sampling(model: CanaryModel) -> Detection:
    """Who was in each of many batches, read from sums that are almost without noise."""
    records = min(len(model.rows), _SAMPLED_RECORDS)
    plan = plan_of(rate=_RATE, sigma=_QUIET, steps=_SAMPLED_STEPS)
    seen = run(model, [canary_example(k) for k in range(records)], plan)
    return d.sampling(seen.sums @ model.rows[:records].T > 0.5, rate=_RATE)


def clip(model: CanaryModel, texts: Sequence[Example]) -> Detection:
    """Neighbour replay: one round with a unit and one without it, under the same key.

    The coins and the noise are the same, so what the two updates differ by is what the
    unit added before the noise.
    """
    canaries = [canary_example(k) for k in range(_PERSON)]
    records = [*canaries, *texts]
    people = [np.arange(_PERSON), *(np.array([s]) for s in range(3, len(records)))]
    distances = {
        "a_record": _moved(model, records, 1),
        "a_person": _moved(model, records, _PERSON, people),
    }
    least = dict.fromkeys(distances, 1.0)
    if texts:
        # Parts of a text may cancel, so nothing is due of it.
        longest = max(range(len(texts)), key=lambda k: len(texts[k].tokens))
        turned = [texts[longest], *canaries, *texts[:longest], *texts[longest + 1 :]]
        distances["a_text"], least["a_text"] = _moved(model, turned, 1), 0.0
    return d.clip(distances, COORDINATES, least=least)


def _moved(
    model: CanaryModel,
    records: Sequence[Example],
    members: int,
    units: Sequence[Slots] | None = None,
) -> float:
    """By how much the first unit, its records the first `members`, moves the sum."""
    without = [left_out(r) if k < members else r for k, r in enumerate(records)]
    persons = members if units else 0
    plan = plan_of(rate=1.0, sigma=SIGMA, steps=1, persons=persons)
    key = fresh_key()
    totals = [
        run(model, examples, plan, noise_key=key, units=units).total
        for examples in (records, without)
    ]
    return float(np.linalg.norm(totals[0] - totals[1]))


def step_count(
    model: CanaryModel, texts: Sequence[Example], counts: dict[str, int]
) -> Detection:
    """How often a record that is in every batch was added, by the whole update.

    `counts` are of another round with STEPS steps: a worker's, told and charged.
    """
    plan = plan_of(rate=1.0, sigma=_QUIET, steps=STEPS)
    seen = run(model, [canary_example(0), *texts], plan)
    along = model.rows[0]
    first = float(seen.sums[0] @ along) if seen.told else 0.0
    done = float(seen.total @ along) / first if first else 0.0
    counts = {"told": seen.told} | _accounted(plan) | counts
    return d.step_count(done, counts, STEPS)


def _accounted(plan: DpPlan) -> dict[str, int]:
    """The steps of one round: as the ledger charges them, and as the run's claim has."""
    zeros = "0" * 64
    charge = Intent.of(
        plan,
        charter=zeros,
        run="audit",
        round=1,
        state_digest=zeros,
        weight=1,
        dtype="float32",
    )
    found = {}
    for name, event in (
        ("in_the_charge", charge.event()),
        ("in_the_claim", plan.event_of(1)),
    ):
        mechanisms = mechanisms_of(event) or ()
        found[name] = sum(mechanism.steps for mechanism in mechanisms)
    return found


def text_example(record: Record) -> Example:
    """A record's bytes as tokens: its response has at least half of the room."""
    response = record.response.encode()[: MOST_TOKENS // 2] or b" "
    prompt = f"{record.instruction} {record.input}".encode()
    prompt = prompt[: MOST_TOKENS - len(response)]
    tokens = np.frombuffer(prompt + response, np.uint8).astype(np.int64)
    return Example(tokens, max(1, len(prompt)))
