"""Many arms in parallel processes, each computed once: a killed sweep goes on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _arms import REHEARSED, Arm, run_arm
from joblib import Memory, Parallel, delayed
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Floats = NDArray[np.float64]
Results = dict[Arm, Floats]
CACHE = Path(__file__).parent / ".cache"
"""Where finished arms are kept. Delete it, or give --cache, after a change of the code."""


def sweep(
    arms: Sequence[Arm], base: Path, *, cache: Path = CACHE, jobs: int | None = None
) -> Results:
    """The held-out NLLs of every arm, float64 (records,), computed where they aren't kept.

    Every process tunes on one thread: a small model doesn't fill two cores by itself.
    Where there is CUDA they tune there, and unless `jobs` says more, one after another.
    """
    keep = Memory(cache, verbose=0).cache(run_arm)
    wanted = sorted(set(arms), key=_longest_first)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    found: Results = {}
    jobs = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    # A process that has grown is replaced between two arms, and none of them is lost.
    warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
    pool = Parallel(jobs, return_as="generator", batch_size=1)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("arms", total=len(wanted))
        done = pool(delayed(keep)(arm, str(base)) for arm in wanted)
        for arm, result in zip(wanted, done, strict=True):
            found[arm] = np.array(result["nlls"])
            bar.advance(task)
    return found


def _longest_first(arm: Arm) -> tuple[int, str]:
    recipe = arm.recipe
    records = {
        "base": 0,
        "alone": recipe.batch,
        "pooled": recipe.batch,
        "federated": recipe.batch * arm.setup.silos,
        "rehearsal": REHEARSED,
        "rehearsed_pooled": REHEARSED,
    }[arm.kind]
    return -recipe.rounds * recipe.steps * records, repr(arm)


def mean(nlls: Floats) -> float:
    """Over the records that have a response after the cut."""
    return float(np.nanmean(nlls))


def interval(differences: Sequence[Floats], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean over held-out records of all seeds."""
    from scipy.stats import bootstrap

    values = np.concatenate([d[np.isfinite(d)] for d in differences])
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def share_interval(
    base: Floats, private: Floats, plain: Floats, seed: int = 0
) -> tuple[float, float]:
    """95 % of (base - private) / (base - plain), records drawn together."""
    from scipy.stats import bootstrap

    kept = np.isfinite(base) & np.isfinite(private) & np.isfinite(plain)
    found = bootstrap(
        (base[kept], private[kept], plain[kept]),
        lambda b, d, p, axis: (
            (b.mean(axis) - d.mean(axis)) / (b.mean(axis) - p.mean(axis))
        ),
        n_resamples=2000,
        method="percentile",
        paired=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as Markdown, for a terminal and for RESULTS.md."""
    names = list(rows[0])
    lines = [f"\n{title}\n", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in rows:
        cells = (_cell(value) for value in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
