"""What privacy costs: held-out NLL against epsilon, per aggregation method.

    python benchmarks/privacy_utility.py [--full] [--quick] [--explore] [--picture FILE]

The data and sizes of utility.py. Per method (fedit, ffa, alternating) and epsilon (8, 3, 1,
a silo, record level): the federation under DP, the mean silo alone under the same DP, and
pooled DP-SGD as the reference. `kept` is rho = (base - DP) / (base - FedIT without DP).
Recipes are chosen on validation parts of other seeds: `--explore` shows that table, one
lever at a time (larger batches, more or fewer steps, rank, clip, rates, methods, server
momentum). The epsilons exclude what that choice tells. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _allocation as allocation
import numpy as np
from _arms import Arm, Recipe, alone_arms, on_validation
from _record import arguments, report
from _silos import MEDQUAD, NAMES, Setup, smaller
from _sweep import CACHE, Results, mean, share_interval, sweep, table

SEEDS = 3
EXPLORING = 100
"""The seed on whose validation part recipes are chosen; none that is reported."""
EPSILONS = (8.0, 3.0, 1.0)
PLAIN = Recipe()
PRIVATE = replace(PLAIN, epsilon=8.0, batch=128)
METHODS: dict[str, Recipe] = {
    "fedit": PRIVATE,
    "ffa": replace(PRIVATE, aggregation="ffa", rate=1e-2),
    "alternating": replace(PRIVATE, aggregation="alternating", b_ratio=5.0),
}
LEVERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "batch 64": {"batch": 64},
    "batch 192": {"batch": 192},
    "batch 256": {"batch": 256},
    "4 steps": {"steps": 4},
    "16 steps": {"steps": 16},
    "6 rounds of 4": {"rounds": 6, "steps": 4},
    "12 rounds of 2": {"rounds": 12, "steps": 2},
    "rank 2": {"rank": 2},
    "rank 4": {"rank": 4},
    "rank 16": {"rank": 16},
    "clip 0.1": {"clip": 0.1},
    "clip 1": {"clip": 1.0},
    "rate 1e-3": {"rate": 1e-3},
    "rate 6e-3": {"rate": 6e-3},
    "rate 1e-2": {"rate": 1e-2},
    "B at 5 times A's rate": {"b_ratio": 5.0},
    "cosine": {"decay": "cosine"},
    "ffa, rate 1e-2": {"aggregation": "ffa", "rate": 1e-2},
    "ffa, rate 2e-2": {"aggregation": "ffa", "rate": 2e-2},
    "alternating, B at 5 times": {"aggregation": "alternating", "b_ratio": 5.0},
    "server momentum 0.5": {"rule": "fedavgm", "momentum": 0.5},
    "server momentum 0.9": {"rule": "fedavgm", "momentum": 0.9, "server_rate": 0.3},
}
"""Each changes the private recipe in one way."""


def arms_of(setup: Setup, recipe: Recipe) -> dict[str, list[Arm]]:
    """Of one recipe under DP."""
    return {
        "federated": [Arm(setup, "federated", recipe)],
        "alone": alone_arms(setup, replace(recipe, aggregation=None)),
        "pooled": [Arm(setup, "pooled", replace(recipe, aggregation=None))],
    }


def reference(setup: Setup, plain: Recipe) -> dict[str, list[Arm]]:
    """What every private arm is compared with."""
    return {
        "base": [Arm(setup, "base", plain)],
        "fedit": [Arm(setup, "federated", plain)],
        "alone_without_dp": alone_arms(setup, plain),
    }


def compare(
    setups: list[Setup], method: str, plain: Recipe, recipe: Recipe, found: Results
) -> dict[str, Any]:
    """One row: NLLs are means over records, then over seeds."""
    columns: dict[str, list[np.ndarray]] = {}
    for setup in setups:
        for name, arms in (arms_of(setup, recipe) | reference(setup, plain)).items():
            values = [found[arm] for arm in arms]
            columns.setdefault(name, []).append(np.mean(values, axis=0))
    nll = {name: float(np.mean(list(map(mean, v)))) for name, v in columns.items()}
    whole = {name: np.concatenate(v) for name, v in columns.items()}
    low, high = share_interval(whole["base"], whole["federated"], whole["fedit"])
    gain = nll["base"] - nll["fedit"]
    return {
        "method": method,
        "epsilon": recipe.epsilon,
        "base": nll["base"],
        "fedit": nll["fedit"],
        "alone_without_dp": nll["alone_without_dp"],
        "federated": nll["federated"],
        "alone": nll["alone"],
        "pooled": nll["pooled"],
        "kept": (nll["base"] - nll["federated"]) / gain,
        "kept_low": low,
        "kept_high": high,
        "kept_pooled": (nll["base"] - nll["pooled"]) / gain,
    }


def explore(base: Path, options: Any) -> None:
    """Every lever on the validation part of a seed that isn't reported."""
    setup = Setup("dolly-dirichlet", EXPLORING)
    if options.quick:
        setup = smaller(setup)
    recipes = {name: replace(PRIVATE, **change) for name, change in LEVERS.items()}
    arms = {
        name: on_validation(Arm(setup, "federated", recipe))
        for name, recipe in recipes.items()
    }
    known = {k: on_validation(v[0]) for k, v in reference(setup, PLAIN).items()}
    found = sweep([*arms.values(), *known.values()], base, cache=options.cache,
                  jobs=options.jobs)  # fmt: skip
    start = mean(found[known["base"]])
    gain = start - mean(found[known["fedit"]])
    rows = [
        {
            "changed": name,
            "nll": mean(found[arm]),
            "kept": (start - mean(found[arm])) / gain,
        }
        for name, arm in arms.items()
    ]
    rows.sort(key=lambda row: row["nll"])
    print(table(f"Validation NLL at epsilon {PRIVATE.epsilon:g}, one lever each", rows))


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The frontier: NLL and kept gain against epsilon, a column per data set."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, len(rows), squeeze=False, sharex=True, figsize=(4.2 * len(rows), 6)
    )
    for column, (name, own) in enumerate(rows.items()):
        for axis, key, label in (
            (axes[0, column], "federated", "held-out NLL"),
            (axes[1, column], "kept", "gain kept"),
        ):
            for method in METHODS:
                mine = [row for row in own if row["method"] == method]
                x = [row["epsilon"] for row in mine]
                axis.plot(x, [row[key] for row in mine], marker="o", label=method)
                if key == "kept":
                    low = [row["kept_low"] for row in mine]
                    high = [row["kept_high"] for row in mine]
                    axis.fill_between(x, low, high, alpha=0.15)
            fedit = [row for row in own if row["method"] == "fedit"]
            pooled = "pooled" if key == "federated" else "kept_pooled"
            x = [row["epsilon"] for row in fedit]
            axis.plot(x, [row[pooled] for row in fedit], "k--", label="pooled DP-SGD")
            axis.set_xscale("log")
            axis.set_xticks(x, [f"{e:g}" for e in x])
            axis.minorticks_off()
            axis.set_ylabel(label if column == 0 else "")
        axes[0, column].axhline(fedit[0]["base"], color="0.6", lw=1, label="base")
        axes[0, column].axhline(
            fedit[0]["fedit"], color="0.3", lw=1, ls=":", label="FedIT without DP"
        )
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("epsilon of each silo, per record")
    axes[0, 0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse, sweep, print, draw."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--full", action="store_true", help="all records, cut at 512")
    parser.add_argument("--explore", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--data", choices=NAMES, action="append")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--model", type=Path, default=allocation.PUBLIC_BASE)
    options = parser.parse_args()
    for needed in (allocation.DOLLY, MEDQUAD, options.model):
        if not needed.exists():
            sys.exit(f"{needed} isn't there: it is no part of the repository")
    if options.explore:
        explore(options.model, options)
        return
    seeds = tuple(range(1, options.seeds + 1))
    most = None if options.full else 400
    cut = 512 if options.full else 256
    names = options.data or ["dolly-dirichlet", "medquad"]
    setups = {n: [Setup(n, seed, most=most) for seed in seeds] for n in names}
    methods = {k: replace(r, max_tokens=cut) for k, r in METHODS.items()}
    plain = replace(PLAIN, max_tokens=cut)
    if options.quick:
        seeds = (1,)
        setups = {"dolly-dirichlet": [smaller(Setup("dolly-dirichlet", 1))]}
        small = {"rounds": 1, "steps": 2, "batch": 16, "max_tokens": 128}
        methods = {"fedit": replace(METHODS["fedit"], **small)}
        plain = replace(plain, **small)
    grid = [(m, e) for m in methods for e in EPSILONS]
    recipes = {(m, e): replace(methods[m], epsilon=e) for m, e in grid}
    wanted: list[Arm] = []
    for of_one in setups.values():
        for setup in of_one:
            every = [reference(setup, plain)]
            every += [arms_of(setup, recipe) for recipe in recipes.values()]
            wanted += [a for arms in every for own in arms.values() for a in own]
    found = sweep(wanted, options.model, cache=options.cache, jobs=options.jobs)
    rows = {
        name: [compare(own, key[0], plain, recipes[key], found) for key in grid]
        for name, own in setups.items()
    }
    for name, own_rows in rows.items():
        print(table(f"{name}: response NLL, nats a token", own_rows))
    if options.picture:
        draw(rows, options.picture)
    report(
        "privacy_utility",
        rows,
        sizes=json.loads(
            json.dumps({k: asdict(recipe) for k, recipe in methods.items()})
        )
        | {"most": most},
        packages=("torch", "opacus", "transformers", "peft", "dp-accounting"),
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
