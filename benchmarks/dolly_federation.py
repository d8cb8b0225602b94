"""Ten silos of Dolly as real daemons: what a federated run with DP keeps.

    python benchmarks/dolly_federation.py [--seeds 3] [--quick]

Dirichlet(0.5) over Dolly's categories, three rounds, epsilon 8 a silo at delta 1e-6. Per
seed it runs the federation with DP as daemons over loopback mTLS, the same run without DP
(in one process, the same code), and every silo alone under the same DP plan; it scores all
of them on the same held-out records, and prints the fraction of the non-private gain that
DP keeps. The last line is JSON.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import _allocation as allocation
import numpy as np
from _record import arguments, report
from numpy.typing import NDArray

from fedit_secure.evaluation.score import score
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.silo.jobs import lora_of, optimizer_of
from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.processes import Processes, ProcessEvent, free_address
from fedit_secure.simulation.run import Tuner, run_in_memory, run_plan
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.tuning.adapter import attach_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import load_template, make_examples
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET, ColumnMap, DataSource
from fedit_secure.tuning.local_round import tune_round
from fedit_secure.tuning.records import load_records

COLUMNS = ColumnMap(input="context")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a run takes. `batch` is B-bar, per silo and step."""

    silos: int = 10
    held_out: int = 200
    rounds: int = 3
    steps: int = 5
    batch: int = 96
    max_tokens: int = 128
    rank: int = 4
    learning_rate: float = 6e-3
    clip: float = 0.5
    epsilon: float = 8.0
    delta: float = 1e-6


def plan_of(sizes: Sizes, base: Path, seed: int, *, private: bool) -> dict[str, Any]:
    """plan.yaml of one run."""
    dp: dict[str, Any] = {"clip": sizes.clip, "expected_batch": sizes.batch}
    dp |= (
        {"epsilon": sizes.epsilon, "delta": sizes.delta}
        if private
        else {"kind": "none"}
    )
    return {
        "federation": "dolly",
        "run": f"seed-{seed}",
        "aggregator": free_address(),
        "base_model": str(base),
        "max_tokens": sizes.max_tokens,
        "lora": {"rank": sizes.rank, "alpha": 2 * sizes.rank},
        "tuning": {"learning_rate": sizes.learning_rate, "local_steps": sizes.steps},
        "rounds": sizes.rounds,
        "dp": dp,
        "schedule": {"tune_deadline_seconds": 1200, "phase_deadline_seconds": 120},
        "seed": seed,
    }


def found(
    folder: Path, data: dict[str, DataSource], plan: dict[str, Any]
) -> LocalFederation:
    """The parties of one run."""
    return found_federation(
        folder, run_plan(plan), data, threads=1, token_budget=DEFAULT_TOKEN_BUDGET
    )


async def run_daemons(federation: LocalFederation) -> NDArray[np.float32]:
    """The run as daemons over loopback mTLS; the final adapter."""

    def show(event: ProcessEvent) -> None:
        if event.party == federation.aggregator.name and not event.silo:
            print(f"  round {event.round}: {event.phase}", flush=True)

    async with Processes(federation, show) as processes:
        await processes.wait()
    states = next((federation.folder / "aggregator" / "state").glob("*/states"))
    store = StateStore(states)
    last = sorted((states.parent / "rounds").iterdir())[-1]
    return to_float32(_certified(store, last, federation.charter))


def _certified(store: StateStore, last: Path, charter: Charter) -> GridState:
    from fedit_secure.wire.codec import decode
    from fedit_secure.wire.limits import Limits

    frame = decode(
        (last / "certificate.frame").read_bytes(), Limits.of(charter.secagg_params())
    )
    return store.get(frame.confirmations[0].state_digest)  # type: ignore[union-attr]


class Scorer:
    """Response NLL on the held-out records, for the base and for adapters."""

    def __init__(self, federation: LocalFederation, held_out: Path, max_tokens: int):
        self.model = attach_adapter(
            load_base_model(federation.base_model), lora_of(federation.charter)
        )
        self.tokenizer = load_tokenizer(federation.base_model)
        self.records = load_records(DataSource(path=str(held_out), columns=COLUMNS))
        self.max_tokens = max_tokens

    def nll(self, adapter: NDArray[np.float32]) -> float:
        """Mean over records of the mean NLL of a response token, nats."""
        write_adapter(self.model, adapter)
        return score(
            self.model,
            self.tokenizer,
            self.records,
            template=load_template("alpaca"),
            max_tokens=self.max_tokens,
        ).nll


def plain_job(
    folder: Path, data: dict[str, DataSource], plan: dict[str, Any]
) -> NDArray[np.float32]:
    """The same run without DP, in this process; the final adapter."""
    import torch

    torch.set_num_threads(1)
    plain = found(folder, data, plan)
    return asyncio.run(run_in_memory(plain, Tuner(plain))).adapter


def alone_job(
    charter_bytes: bytes,
    initial: NDArray[np.float32],
    base: Path,
    data: dict[str, DataSource],
) -> list[NDArray[np.float32]]:
    """Every silo by itself: as many rounds of local steps, under its own DP plan."""
    import torch

    torch.set_num_threads(1)
    charter = Charter.from_bytes(charter_bytes, "the charter")
    model = attach_adapter(load_base_model(base), lora_of(charter))
    tokenizer, template = load_tokenizer(base), load_template(charter.template.name)
    adapters = []
    for silo, source in data.items():
        records = load_records(source)
        examples = make_examples(
            records, tokenizer, template, max_tokens=charter.max_tokens
        )
        adapter = initial
        for round in range(1, charter.rounds + 1):
            adapter = adapter + tune_round(
                model,
                examples,
                charter.plan_for(silo),
                optimizer_of(charter, round),
                noise_key=os.urandom(32),
                initial=adapter,
                max_tokens=charter.max_tokens,
            )
        adapters.append(adapter)
    return adapters


def one_seed(
    sizes: Sizes, dolly: Path, base: Path, seed: int, folder: Path
) -> dict[str, Any]:
    """Everything for one seed."""
    rng = np.random.default_rng(seed)
    rest, test = allocation.hold_out(allocation.read_dolly(dolly), sizes.held_out, rng)
    parts = allocation.dirichlet(rest, sizes.silos, 0.5, rng)
    data = {
        f"silo-{i}": DataSource(
            path=str(allocation.write_jsonl(folder / "data" / f"{i}.jsonl", part)),
            columns=COLUMNS,
        )
        for i, part in enumerate(parts)
    }
    held_out = allocation.write_jsonl(folder / "data" / "held-out.jsonl", test)
    private = found(folder / "dp", data, plan_of(sizes, base, seed, private=True))
    began = time.monotonic()
    with_dp = asyncio.run(run_daemons(private))
    seconds = time.monotonic() - began
    initial = to_float32(private.initial)
    plain_plan = plan_of(sizes, base, seed, private=False)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        plain = pool.submit(plain_job, folder / "plain", data, plain_plan)
        lone = pool.submit(alone_job, private.charter.to_bytes(), initial, base, data)
        without, alone = plain.result(), lone.result()
    scorer = Scorer(private, held_out, sizes.max_tokens)
    result = {
        "seed": seed,
        "records": [len(part) for part in parts],
        "seconds_of_daemons": round(seconds, 1),
        "base": scorer.nll(initial),
        "federated_dp": scorer.nll(with_dp),
        "federated": scorer.nll(without),
    }
    alone_nll = [scorer.nll(adapter) for adapter in alone]
    result["alone_dp"] = alone_nll
    result["alone_dp_mean"] = float(np.mean(alone_nll))
    gain = result["base"] - result["federated"]
    result["kept"] = (result["base"] - result["federated_dp"]) / gain
    print(
        f"seed {seed}: base {result['base']:.3f}, federated {result['federated']:.3f}, "
        f"with DP {result['federated_dp']:.3f} (keeps {result['kept']:.0%}), alone with "
        f"DP {result['alone_dp_mean']:.3f} ({min(alone_nll):.3f} to {max(alone_nll):.3f}), "
        f"{seconds:.0f} s",
        flush=True,
    )
    return result


def main() -> None:
    """Parse, run the seeds, print the figures."""
    import torch

    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=allocation.DOLLY)
    parser.add_argument("--model", type=Path, default=allocation.PUBLIC_BASE)
    options = parser.parse_args()
    for needed in (options.data, options.model):
        if not needed.exists():
            sys.exit(f"{needed} isn't there: give --data and --model")
    torch.set_num_threads(2)
    sizes, count = Sizes(), options.seeds
    if options.quick:
        sizes, count = (
            replace(sizes, silos=3, rounds=1, steps=1, batch=32, held_out=40),
            1,
        )
    seeds = tuple(range(options.first_seed, options.first_seed + count))
    results = []
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(prefix="fedit-dolly-"))
        results.append(one_seed(sizes, options.data, options.model, seed, folder))
    report(
        "dolly_federation",
        {
            "kept_fraction_min": min(r["kept"] for r in results),
            "beats_mean_silo_alone": all(
                r["federated_dp"] < r["alone_dp_mean"] for r in results
            ),
            "runs": results,
        },
        sizes=asdict(sizes),
        packages=("torch", "opacus", "transformers", "peft", "dp-accounting"),
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
