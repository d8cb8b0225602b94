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
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import torch
from _broken_builds import BREAKS, broken, worker_of
from _record import arguments, report

from fedit_secure.audit.canary.attempts import WATCHED
from fedit_secure.audit.canary.build import (
    DELTA,
    Audited,
    audit_build,
    guesses_of,
    synthetic_records,
)
from fedit_secure.audit.canary.model import COORDINATES
from fedit_secure.audit.canary.trials import SIGMA, game_plan
from fedit_secure.audit.detections import ALARM
from fedit_secure.audit.one_run import CONFIDENCE
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.silo import tuner

CANARIES = 2000
RIGHT = "right"
NOISE = {
    RIGHT: 1.0,
    "noise-halved": 0.5,
    "noise-quartered": 0.25,
    "noise-off": 0.0,
    "clip-off": 1.0,
}
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


def all_tried(
    names: list[str], seeds: list[int], jobs: int
) -> dict[str, list[Audited]]:
    """The audits of each of `names` on the seed beside it, by name."""
    found: dict[str, list[Audited]] = {name: [] for name in names}
    # Fresh processes: in a forked one, torch's threads would be missing.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name, audit in zip(names, pool.map(tried, names, seeds), strict=True):
            found[name].append(audit)
    return found


def bounds(audits: list[Audited]) -> dict[str, float]:
    """Medians of the lower bounds on epsilon, and of the right guesses."""

    def median(name: str) -> float:
        figures: list[Any] = [a.detections[0].figures[name] for a in audits]
        return round(float(statistics.median(figures)), 3)

    return {
        "epsilon_lower_bound": median("epsilon_lower_bound"),
        "gaussian_epsilon_lower_bound": median("gaussian_epsilon_lower_bound"),
        "correct_guesses": median("correct"),
    }


def main() -> None:
    """Audit every build, print a line each and the JSON line; exit 1 if a claim fails."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=20, help="of the right build")
    parser.add_argument("--broken-seeds", type=int, default=1, help="of broken ones")
    parser.add_argument("--jobs", type=int, default=2, help="audits at a time")
    options = parser.parse_args()
    seeds = range(1 if options.quick else options.seeds)
    few = range(1000, 1001 if options.quick else 1000 + options.broken_seeds)
    names = QUICK if options.quick else tuple(BREAKS)
    pairs = [(RIGHT, seed) for seed in seeds]
    pairs += [(name, seed) for name in names for seed in few]
    builds, drawn = zip(*pairs, strict=True)
    audits = all_tried(list(builds), list(drawn), options.jobs)
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
            "epsilon_bounds": {
                name: {"noise_share": NOISE[name]} | bounds(audits[name])
                for name in NOISE
                if name in audits
            },
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
        seeds=(*seeds, *few),
    )
    missed = [name for name, found in flagged_by.items() if not found]
    if missed or false_alarms:
        sys.exit(f"not held: missed {missed}, false alarms {false_alarms}")


if __name__ == "__main__":
    main()
