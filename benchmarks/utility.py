"""What federation gives without DP: base, each silo alone, FedIT, pooled.

    python benchmarks/utility.py [--full] [--quick] [--seeds 3] [--jobs 2] [--cache DIR]

Dolly over ten silos (Dirichlet 0.5, and two shards a silo) and MedQuAD over its nine
sources; response NLL on a held-out part of all silos together, split by unit. A silo alone
takes as many steps as in the federation, the pooled run as many records as all silos. The
short template, cut at 128 tokens; --full takes the whole template, cut at 512, and four
times as many steps. Finished arms are kept, so a killed sweep goes on. The last line is
JSON.

With `--secure` it also runs six rounds of FedIT on 40 records a silo through
`fedit_secure.simulate`, with real masks: the NLL may differ by the quantisation only.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import _allocation as allocation
import numpy as np
from _arms import Arm, Bench, Kind, Recipe, alone_arms, lora_of, rule_of
from _recipes import ALONE, FEDIT, POOLED, full, quick
from _record import arguments, report
from _silos import MEDQUAD, NAMES, Setup, parts_of, smaller
from _sweep import CACHE, Results, interval, mean, sweep, table

SEEDS = 3
RECIPES: dict[Kind, Recipe] = {
    "base": FEDIT,
    "alone": ALONE,
    "federated": FEDIT,
    "pooled": POOLED,
}


def arms_of(setup: Setup, recipes: dict[Kind, Recipe]) -> dict[str, list[Arm]]:
    """What is compared on one allocation, by name."""
    return {
        "base": [Arm(setup, "base", recipes["base"])],
        "alone": alone_arms(setup, recipes["alone"]),
        "fedit": [Arm(setup, "federated", recipes["federated"])],
        "pooled": [Arm(setup, "pooled", recipes["pooled"])],
    }


def compare(
    setups: list[Setup], recipes: dict[Kind, Recipe], results: Results
) -> dict[str, Any]:
    """One data set over its seeds; NLLs are means over records, then over seeds."""
    by_seed = []
    for setup in setups:
        arms = arms_of(setup, recipes)
        by_seed.append({k: [results[a] for a in own] for k, own in arms.items()})
    alone = [np.mean(seed["alone"], axis=0) for seed in by_seed]
    fedit = [seed["fedit"][0] for seed in by_seed]
    pooled = [seed["pooled"][0] for seed in by_seed]
    gaps = [mean(a - p) for a, p in zip(alone, pooled, strict=True)]
    gains = [mean(a - f) for a, f in zip(alone, fedit, strict=True)]
    error = _standard_error([a - p for a, p in zip(alone, pooled, strict=True)])
    low, high = interval([a - f for a, f in zip(alone, fedit, strict=True)])
    return {
        "base": float(np.mean([mean(seed["base"][0]) for seed in by_seed])),
        "alone_mean": float(np.mean([mean(a) for a in alone])),
        "alone_best": float(
            np.mean([min(mean(a) for a in seed["alone"]) for seed in by_seed])
        ),
        "fedit": float(np.mean([mean(f) for f in fedit])),
        "pooled": float(np.mean([mean(p) for p in pooled])),
        "gain_over_alone": float(np.mean(gains)),
        "gain_low": low,
        "gain_high": high,
        "gap_closed": float(np.mean(gains) / np.mean(gaps)),
        "gap_in_standard_errors": float(np.mean(gaps) / error),
        "beats_mean_alone_on_each_seed": all(gain > 0 for gain in gains),
        "beats_every_silo_on_each_seed": all(
            mean(f) < min(mean(a) for a in seed["alone"])
            for f, seed in zip(fedit, by_seed, strict=True)
        ),
    }


def _standard_error(differences: list[np.ndarray]) -> float:
    values = np.concatenate(differences)
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def secure(setup: Setup, recipe: Recipe, base: Path, plain: np.ndarray) -> float:
    """How far the NLL of FedIT by `fedit_secure.simulate`, masks and all, is from `plain`.

    The batches are drawn anew, so they are all that a silo has: q = 1.
    """
    import fedit_secure
    from fedit_secure.tuning.job import DataSource

    parts = parts_of(setup)
    folder = Path(tempfile.mkdtemp(prefix="fedit-utility-"))
    sources = {}
    for name, records in parts.silos.items():
        rows = [asdict(record) for record in records]
        path = allocation.write_jsonl(folder / "data" / f"{name}.jsonl", rows)
        sources[name] = DataSource(path=str(path))
    sizes = {name: len(own) for name, own in parts.silos.items()}
    done = fedit_secure.simulate(
        sources,
        {
            "base_model": str(base),
            "max_tokens": recipe.max_tokens,
            "template": recipe.template,
            "lora": lora_of(recipe).model_dump(exclude={"dropout"}),
            "tuning": {
                "optimizer": recipe.optimizer,
                "learning_rate": recipe.rate,
                "local_steps": recipe.steps,
            },
            "update_rule": rule_of(recipe).model_dump(),
            "weights": "records" if recipe.by_records else "equal",
            "rounds": recipe.rounds,
            "dp": {"kind": "none", "clip": recipe.clip, "expected_batch": sizes},
            "secagg": {"ring_bits": 32, "bound": 0.5},
            "seed": setup.seed,
        },
        folder=folder / "run",
    )
    bench = Bench(Arm(setup, "federated", recipe), base)
    nlls = bench.nlls(done.adapter.astype(np.float64))
    return mean(nlls) - mean(plain)


def main() -> None:
    """Parse, sweep, print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--full", action="store_true", help="cut at 512, more steps")
    parser.add_argument("--most", type=int, help="records a silo, at most")
    parser.add_argument("--data", choices=NAMES, action="append")
    parser.add_argument("--secure", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--model", type=Path, default=allocation.PUBLIC_BASE)
    options = parser.parse_args()
    for needed in (allocation.DOLLY, MEDQUAD, options.model):
        if not needed.exists():
            sys.exit(f"{needed} isn't there: it is no part of the repository")
    recipes, seeds, names = (
        RECIPES,
        tuple(range(1, options.seeds + 1)),
        options.data or NAMES,
    )
    setups = {n: [Setup(n, seed, most=options.most) for seed in seeds] for n in names}
    if options.full:
        recipes = {kind: full(recipe) for kind, recipe in recipes.items()}
    if options.quick:
        seeds = (1,)
        recipes = {kind: quick(recipe) for kind, recipe in recipes.items()}
        setups = {"dolly-dirichlet": [smaller(Setup("dolly-dirichlet", 1))]}
    wanted = [
        arm
        for own in setups.values()
        for setup in own
        for arms in arms_of(setup, recipes).values()
        for arm in arms
    ]
    results = sweep(wanted, options.model, cache=options.cache, jobs=options.jobs)
    figures = {name: compare(own, recipes, results) for name, own in setups.items()}
    rows = [{"data": name, **found} for name, found in figures.items()]
    print(table("Response NLL, nats a token", rows))
    if options.secure:
        # With every record in every batch both runs see the same gradients.
        every = replace(recipes["federated"], batch=10**6, rounds=6)
        for name, own in setups.items():
            few = replace(own[0], most=40)
            plain = sweep(
                [Arm(few, "federated", every)],
                options.model,
                cache=options.cache,
                jobs=1,
            )
            (nlls,) = plain.values()
            off = secure(few, every, options.model, nlls)
            figures[name]["secure_aggregation_nll_difference"] = off
            print(f"{name}: secure aggregation moves the NLL by {off:+.6f}")
    report(
        "utility",
        figures,
        sizes={"most": options.most} | {kind: asdict(r) for kind, r in recipes.items()},
        packages=("torch", "opacus", "transformers", "peft"),
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
