"""Whether `fedit audit canary` sees a broken build, and leaves the right one in peace.

    python benchmarks/audit_power.py [--quick]

Each broken build is the production code with one function replaced, in the silo's process
and in its worker's. Claims: every one is flagged by a detector on every seed
(`flagged_by` has none without), and the right build by none on any of 20 seeds
(`false_alarms`). Beside it: what the one-run audit says of epsilon at each noise level.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from _broken_builds import BREAKS, broken, worker_of
from _record import arguments, report

from fedit_secure.audit.canary import trials
from fedit_secure.audit.canary.attempts import WATCHED
from fedit_secure.audit.canary.build import (
    DELTA,
    Audited,
    audit_build,
    guesses_of,
    synthetic_records,
)
from fedit_secure.audit.canary.detections import ALARM
from fedit_secure.audit.canary.model import COORDINATES, CanaryModel
from fedit_secure.audit.canary.one_run import CONFIDENCE
from fedit_secure.audit.canary.trials import SIGMA, game_plan
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.silo import tuner

CANARIES = 2000
RIGHT = "right"
NOISE = (RIGHT, "noise-halved", "noise-quartered", "noise-off", "clip-off")
QUICK = ("noise-off", "batches-shuffled")


def audited(build: str, seed: int) -> Audited:
    """The audit of one build, as the command runs it."""
    right = build == RIGHT
    with nullcontext() if right else broken(build):
        return asyncio.run(
            audit_build(
                tuner.tune_in_child,
                base_model_path(),
                synthetic_records(seed),
                canaries=CANARIES,
                seed=seed,
                worker=WATCHED if right else worker_of(build),
            )
        )


def tried(build: str, seed: int) -> Audited:
    """The audit of one build on one seed, and a line of it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    audit = audited(build, seed)
    seconds = time.perf_counter() - began
    bound = audit.detections[0].figures["epsilon_lower_bound"]
    flagged = ", ".join(audit.flagged) or "-"
    print(f"{build:30} seed {seed:4}  {bound:6.2f}  {seconds:5.1f} s  {flagged}")
    sys.stdout.flush()
    return audit


def guessed(build: str, seed: int) -> dict[str, Any]:
    """The one-run audit alone, of one build on one seed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = CanaryModel(CANARIES, seed)
    texts = [trials.text_example(record) for record in synthetic_records(seed)]
    there = np.random.default_rng((seed, 2)).random(CANARIES) < 0.5
    options: dict[str, Any] = {"guesses": guesses_of(CANARIES), "delta": DELTA}
    with nullcontext() if build == RIGHT else broken(build):
        found = trials.game(model, texts, there, **options)
    return found.detection.figures


def pooled(
    work: Callable[[str, int], Any], names: Sequence[str], seeds: range, pool: Executor
) -> dict[str, list[Any]]:
    """What `work` finds for each name on each seed."""
    pairs = [(name, seed) for name in names for seed in seeds]
    results = pool.map(work, *zip(*pairs, strict=True))
    found: dict[str, list[Any]] = {name: [] for name in names}
    for (name, _), result in zip(pairs, results, strict=True):
        found[name].append(result)
    return found


def bounds(games: list[dict[str, Any]]) -> dict[str, float]:
    """Medians of the lower bounds on epsilon, and of the right guesses."""
    names = ("epsilon_lower_bound", "gaussian_epsilon_lower_bound", "correct")
    return {
        name: round(float(statistics.median(game[name] for game in games)), 3)
        for name in names
    }


def main() -> None:
    """Audit every build, print a line each and the JSON line; exit 1 if a claim fails."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=20, help="of the right build")
    parser.add_argument("--broken-seeds", type=int, default=1, help="of broken ones")
    parser.add_argument("--jobs", type=int, default=2, help="audits at a time")
    options = parser.parse_args()
    names = QUICK if options.quick else tuple(BREAKS)
    seeds = range(1 if options.quick else options.seeds)
    few = range(1000, 1001 if options.quick else 1000 + options.broken_seeds)
    games = range(2000, 2001 if options.quick else 2005)
    # Fresh processes: in a forked one, torch's threads would be missing.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        audits = pooled(tried, (RIGHT,), seeds, pool) | pooled(tried, names, few, pool)
        guesses = pooled(guessed, NOISE, games, pool)
    flagged_by = {
        name: [
            d
            for d in audits[name][0].flagged
            if all(d in a.flagged for a in audits[name])
        ]
        for name in names
    }
    false_alarms = sum(bool(audit.flagged) for audit in audits[RIGHT])
    claimed = game_plan(DELTA).epsilons().published
    report(
        "audit_power",
        {
            "flagged_by": flagged_by,
            "broken_builds": len(names),
            "broken_flagged": sum(bool(found) for found in flagged_by.values()),
            "false_alarms": false_alarms,
            "right_builds": len(seeds),
            "epsilon_claimed": round(claimed, 3),
            "epsilon_bounds": {name: bounds(guesses[name]) for name in NOISE},
        },
        sizes={
            "canaries": CANARIES,
            "guesses": guesses_of(CANARIES),
            "coordinates": COORDINATES,
            "sigma": SIGMA,
            "delta": DELTA,
            "confidence": CONFIDENCE,
            "alarm": ALARM,
            "seeds_of_each_broken_build": len(few),
        },
        packages=("torch", "transformers", "peft", "opacus", "dp-accounting"),
        seeds=(*seeds, *few, *games),
    )
    missed = [name for name, found in flagged_by.items() if not found]
    if missed or false_alarms:
        sys.exit(f"not held: missed {missed}, false alarms {false_alarms}")


if __name__ == "__main__":
    main()
