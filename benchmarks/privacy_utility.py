"""What privacy costs: held-out NLL against epsilon, per aggregation method.

    python benchmarks/privacy_utility.py [--federated] [--quick] [--explore] [--picture FILE]

Dolly over Dirichlet silos and MedQuAD; epsilons are a silo's, per record. At epsilon 8, 3
and 1: the federation under DP, on Dolly by each aggregation method, and pooled DP-SGD on as
many records. At epsilon 8 also each silo alone under the same DP. `kept` is
rho = (base - DP) / (base - FedIT without DP).

By default federations are rehearsed: one step a round on a sample of all records, with
the noise that the mean of the silos' steps has. --federated runs them whole, on three
seeds at epsilon 8; --full also cuts at 512 and runs everything on all seeds. Pooled runs
are always rehearsed. `fedsa` takes several steps a round, so it is never rehearsed, and is
run at epsilon 8 alone unless with --full; it is scored as the mean over the silos' own
adapters, each on everybody's held-out records.

Recipes are chosen on the validation part of another seed: `--explore` shows that table, one
lever at a time, rehearsed. The epsilons exclude what that choice tells. The last line is
JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import _allocation as allocation
import numpy as np
from _arms import Arm, Kind, Recipe, alone_arms, on_validation
from _recipes import (
    ALONE,
    EXPLORING,
    FEDIT,
    PRIVATE,
    PRIVATE_ALONE,
    PRIVATE_ALTERNATING,
    PRIVATE_BOTH,
    PRIVATE_FEDSA,
    PRIVATE_POOLED,
    TAU,
    as_it_is,
    federated_at,
    full,
    quick,
)
from _record import arguments, report
from _silos import MEDQUAD, NAMES, Setup, smaller
from _sweep import CACHE, Results, mean, share_interval, sweep, table

SEEDS = 3
EPSILONS = (8.0, 3.0, 1.0)
Size = Callable[[Recipe], Recipe]
METHODS: dict[str, Recipe] = {
    "ffa": PRIVATE,
    "fedit": PRIVATE_BOTH,
    "alternating": PRIVATE_ALTERNATING,
    "fedsa": PRIVATE_FEDSA,
}
CHOSEN = "ffa"
"""The method of which everything is measured; of the others, that they were tried."""
LEVERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "batch 128": {"batch": 128},
    "batch 256": {"batch": 256},
    "batch 384, 10 rounds": {"batch": 384, "rounds": 10},
    "10 rounds": {"rounds": 10},
    "30 rounds": {"rounds": 30},
    "rank 8": {"rank": 8},
    "rank 32": {"rank": 32},
    "random start": {"init": "random"},
    "clip 0.1": {"clip": 0.1, "tau": 4e-5},
    "clip 2": {"clip": 2.0, "tau": 8e-4},
    "server rate 0.008": {"server_rate": 0.008},
    "server rate 0.016": {"server_rate": 0.016},
    "tau 1e-3, server rate 0.02": {"tau": 1e-3, "server_rate": 0.02},
    "server momentum": {"rule": "fedavgm", "server_rate": 1.4},
    "cosine": {"decay": "cosine", "server_rate": 0.018},
    "A and B, rank 8, server rate 0.008": {
        "aggregation": None,
        "rank": 8,
        "server_rate": 0.008,
    },
    "the same, random start": {
        "aggregation": None,
        "rank": 8,
        "server_rate": 0.008,
        "init": "random",
    },
    "alternating, rank 8": {"aggregation": "alternating", "rank": 8},
    "v and o alone": {"targets": ("v_proj", "o_proj")},
}
"""Each changes the private recipe in one way."""


@dataclass(frozen=True, slots=True)
class Row:
    """One recipe on some seeds, and whether silos alone and a pooled run are run too."""

    method: str
    epsilon: float
    setups: tuple[Setup, ...]
    rehearsed: bool
    alone: bool = False
    pooled: bool = False


def rows_of(
    setups: tuple[Setup, ...], *, rehearsed: bool, every: bool, one: bool
) -> list[Row]:
    """What is computed of one data set; `every`: all of it on all seeds; `one`: a row."""
    some = setups if every else setups[:1]
    rows = [Row(CHOSEN, 8.0, setups, rehearsed, alone=True, pooled=True)]
    if one:
        return rows
    rows += [
        Row(CHOSEN, epsilon, some, rehearsed, alone=every, pooled=True)
        for epsilon in EPSILONS[1:]
    ]
    if every or setups[0].name == "dolly-dirichlet":
        for method in (m for m in METHODS if m != CHOSEN):
            short = METHODS[method].steps == 1
            epsilons = EPSILONS if short or every else EPSILONS[:1]
            rows += [Row(method, e, some, rehearsed and short) for e in epsilons]
    return rows


def arms_of(setup: Setup, row: Row, size: Size) -> dict[str, list[Arm]]:
    """Of one row on one seed."""

    def at(recipe: Recipe) -> Recipe:
        return size(replace(recipe, epsilon=row.epsilon))

    federated: Kind = "rehearsal" if row.rehearsed else "federated"
    recipe = size(federated_at(METHODS[row.method], row.epsilon))
    arms = {"federated": [Arm(setup, federated, recipe)]}
    if row.alone:
        arms["alone"] = alone_arms(setup, at(PRIVATE_ALONE))
    if row.pooled:
        arms["pooled"] = [Arm(setup, "rehearsed_pooled", at(PRIVATE_POOLED))]
    return arms


def reference(setup: Setup, size: Size) -> dict[str, list[Arm]]:
    """What every private arm is compared with: arms of utility.py."""
    fedit, alone = size(FEDIT), size(ALONE)
    return {
        "base": [Arm(setup, "base", fedit)],
        "fedit": [Arm(setup, "federated", fedit)],
        "alone_without_dp": alone_arms(setup, alone),
    }


def compare(row: Row, size: Size, found: Results) -> dict[str, Any]:
    """NLLs are means over records, then over seeds."""
    columns: dict[str, list[np.ndarray]] = {}
    for setup in row.setups:
        for name, arms in (arms_of(setup, row, size) | reference(setup, size)).items():
            values = [found[arm] for arm in arms]
            columns.setdefault(name, []).append(np.mean(values, axis=0))
    nll = {name: float(np.mean(list(map(mean, v)))) for name, v in columns.items()}
    whole = {name: np.concatenate(v) for name, v in columns.items()}
    low, high = share_interval(whole["base"], whole["federated"], whole["fedit"])
    gain = nll["base"] - nll["fedit"]
    pooled = nll.get("pooled")
    return {
        "method": row.method,
        "epsilon": row.epsilon,
        "rehearsed": row.rehearsed,
        "seeds": len(row.setups),
        "base": nll["base"],
        "fedit": nll["fedit"],
        "alone_without_dp": nll["alone_without_dp"],
        "federated": nll["federated"],
        "alone": nll.get("alone"),
        "pooled": pooled,
        "kept": (nll["base"] - nll["federated"]) / gain,
        "kept_low": low,
        "kept_high": high,
        "kept_pooled": None if pooled is None else (nll["base"] - pooled) / gain,
        "beats_mean_alone_on_each_seed": None
        if "alone" not in columns
        else _below(columns["federated"], columns["alone"]),
        "beats_alone_without_dp_on_each_seed": _below(
            columns["federated"], columns["alone_without_dp"]
        ),
    }


def _below(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(mean(a) < mean(b) for a, b in zip(ours, theirs, strict=True))


def explore(base: Path, options: Any) -> None:
    """Every lever on the validation part of a seed that isn't reported."""
    setup = Setup("dolly-dirichlet", EXPLORING, most=options.most)
    if options.quick:
        setup = smaller(setup)
    arms = {
        name: on_validation(Arm(setup, "rehearsal", replace(PRIVATE, **change)))
        for name, change in LEVERS.items()
    }
    known = {k: on_validation(v[0]) for k, v in reference(setup, as_it_is).items()}
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
            for method in dict.fromkeys(row["method"] for row in own):
                mine = [row for row in own if row["method"] == method]
                x = [row["epsilon"] for row in mine]
                axis.plot(x, [row[key] for row in mine], marker="o", label=method)
                if key == "kept":
                    low = [row["kept_low"] for row in mine]
                    high = [row["kept_high"] for row in mine]
                    axis.fill_between(x, low, high, alpha=0.15)
            chosen = [row for row in own if row["method"] == CHOSEN]
            pooled = "pooled" if key == "federated" else "kept_pooled"
            x = [row["epsilon"] for row in chosen]
            axis.plot(x, [row[pooled] for row in chosen], "ks--", label="pooled DP-SGD")
            axis.set_xscale("log")
            x = sorted({row["epsilon"] for row in own})
            axis.set_xticks(x, [f"{e:g}" for e in x])
            axis.minorticks_off()
            axis.set_ylabel(label if column == 0 else "")
        axes[0, column].axhline(own[0]["base"], color="0.6", lw=1, label="base")
        axes[0, column].axhline(
            own[0]["fedit"], color="0.3", lw=1, ls=":", label="FedIT without DP"
        )
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("epsilon of each silo, per record")
    axes[0, 0].legend(fontsize="small")
    figure.tight_layout()
    # The same figures give the same file, so that a change of it tells something.
    dated = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
    with plt.rc_context({"svg.hashsalt": "frontier"}):
        figure.savefig(path, dpi=150, **dated)


def main() -> None:
    """Parse, sweep, print, draw."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--federated", action="store_true", help="whole, on three seeds at epsilon 8"
    )
    parser.add_argument(
        "--full", action="store_true", help="all of it whole, cut at 512"
    )
    parser.add_argument("--explore", action="store_true")
    parser.add_argument("--seeds", type=int, help=f"1, or {SEEDS} where it runs whole")
    parser.add_argument("--most", type=int, help="records a silo, at most")
    parser.add_argument("--data", choices=NAMES, action="append")
    parser.add_argument("--method", choices=list(METHODS), action="append")
    parser.add_argument("--epsilon", type=float, choices=EPSILONS, action="append")
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
    wide = options.full
    rehearsed = not (options.federated or wide)
    count = options.seeds or (1 if rehearsed else SEEDS)
    seeds = tuple(range(1, count + 1))
    names = options.data or ["dolly-dirichlet", "medquad"]
    setups = {n: tuple(Setup(n, s, most=options.most) for s in seeds) for n in names}
    size = full if wide else as_it_is
    if options.quick:
        size = quick
        seeds, setups = (1,), {names[0]: (smaller(Setup(names[0], 1)),)}
    rows = {
        name: [
            row
            for row in rows_of(own, rehearsed=rehearsed, every=wide, one=options.quick)
            if row.method in (options.method or METHODS)
            and row.epsilon in (options.epsilon or EPSILONS)
        ]
        for name, own in setups.items()
    }
    wanted: list[Arm] = []
    for row in (row for own in rows.values() for row in own):
        for setup in row.setups:
            arms = arms_of(setup, row, size) | reference(setup, size)
            wanted += [arm for own in arms.values() for arm in own]
    found = sweep(wanted, options.model, cache=options.cache, jobs=options.jobs)
    compared = {
        name: [compare(row, size, found) for row in own] for name, own in rows.items()
    }
    for name, lines in compared.items():
        print(table(f"{name}: response NLL, nats a token", lines))
    if options.picture:
        draw(compared, options.picture)
    recipes = {
        **METHODS,
        "alone": PRIVATE_ALONE,
        "pooled": PRIVATE_POOLED,
        "without_dp": FEDIT,
        "alone_without_dp": ALONE,
    }
    report(
        "privacy_utility",
        compared,
        sizes={"most": options.most, "full": wide, "rehearsed": rehearsed, "tau": TAU}
        | {name: asdict(recipe) for name, recipe in recipes.items()},
        packages=("torch", "opacus", "transformers", "peft", "dp-accounting"),
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
