"""The canary audit of this machine's build: every detector, once.

It falsifies and never certifies. A fault that a detector looks for shows with near
certainty; a build that passes may have others, and a silo may run another build.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedit_secure.audit.canary import detections as d
from fedit_secure.audit.canary import trials
from fedit_secure.audit.canary.attempts import WATCHED, Attempts, Tune, watch_worker
from fedit_secure.audit.canary.detections import Detection
from fedit_secure.audit.canary.model import COORDINATES, CanaryModel
from fedit_secure.privacy.events import AuditRun
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.secagg.transcript import digest
from fedit_secure.tuning.records import Record, record_bytes

DELTA = 1e-5
MOST_RECORDS = 64
"""Records beside the canaries; of more, the first are taken."""

Kind = Literal["public", "synthetic"]


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found.

    Attributes:
        plan: of the one-run audit, whose epsilon is the claim held against the guesses.
        detections: of every detector, in the order of `DETECTORS`.
    """

    plan: DpPlan
    detections: tuple[Detection, ...]

    @property
    def flagged(self) -> tuple[str, ...]:
        """The detectors that flag the build."""
        return tuple(found.detector for found in self.detections if found.flags)


async def audit_build(
    tune: Tune,
    base_model: Path,
    records: Sequence[Record],
    *,
    canaries: int,
    seed: int,
    worker: Sequence[str] = WATCHED,
) -> Audited:
    """Try the tuning code that is installed here, on this event loop's machine.

    Args:
        tune: the silo's `tune_in_child`; called on this loop, the main thread's.
        base_model: the folder of a small base model, for the worker.
        records: public or synthetic, at least one; the first MOST_RECORDS count.
        canaries: m of the one-run audit.
        seed: of the canaries' directions and coins. The noise never has one.
        worker: see `watch_worker`.

    Raises:
        FeditError: the code can't tune at all, or the disk is full.
        ValueError: too many canaries.
    """
    records = records[:MOST_RECORDS]
    with tempfile.TemporaryDirectory(prefix="fedit-canary-") as folder:
        attempts = await watch_worker(tune, base_model, records, Path(folder), worker)
    return await asyncio.to_thread(_trials, attempts, records, canaries, seed)


def _trials(
    attempts: Attempts, records: Sequence[Record], canaries: int, seed: int
) -> Audited:
    model = CanaryModel(canaries, seed)
    texts = [trials.text_example(record) for record in records]
    there = np.random.default_rng((seed, 2)).random(canaries) < 0.5
    game = trials.game(model, texts, there, guesses=guesses_of(canaries), delta=DELTA)
    steps = trials.noise_of_steps(model, texts)
    found = (
        game.detection,
        d.noise_scale(
            np.concatenate([game.noise, steps]),
            model.outside_dimensions,
            sigma=trials.SIGMA,
            coordinates=COORDINATES,
        ),
        d.noise_reuse(
            [
                (steps, model.outside_dimensions),
                (attempts.updates, attempts.updates.shape[1]),
            ]
        ),
        trials.sampling(model),
        trials.clip(model, texts),
        trials.step_count(model, texts, attempts.counts),
        attempts.intent,
    )
    return Audited(trials.game_plan(DELTA), found)


def guesses_of(canaries: int) -> int:
    """r, fixed by the number of canaries alone: a fifth of them, half in and half out."""
    return 2 * (canaries // 10)


def synthetic_records(seed: int) -> list[Record]:
    """MOST_RECORDS records of random words, of many lengths; nobody's."""
    random = np.random.default_rng((seed, 3))
    letters = list("abcdefghijklmnopqrstuvwxyz")

    def words(most: int) -> str:
        sizes = random.integers(1, 8, random.integers(1, most + 1))
        return " ".join("".join(random.choice(letters, size)) for size in sizes)

    return [Record(words(8), words(4), words(8)) for _ in range(MOST_RECORDS)]


def audit_event(plan: DpPlan, kind: Kind, records: Sequence[Record]) -> AuditRun:
    """What a silo's ledger says of such an audit: its plan, and whose records it had."""
    used = map(record_bytes, records[:MOST_RECORDS])
    return AuditRun(
        records=kind,
        data_digest=digest("fedit/audit-records/v1", *used).hex(),
        sample_rate=plan.sample_rate,
        noise_multiplier=plan.noise_multiplier,
        clip=plan.clip,
        expected_batch=plan.expected_batch,
        steps=plan.local_steps,
    )
