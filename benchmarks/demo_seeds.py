"""The demo's federation against its baselines, seed by seed.

    python benchmarks/demo_seeds.py [--seeds 5] [--quick]

Per seed it generates the four hospitals anew, draws a new first adapter and new noise,
and scores on the pooled held-out records: the base model; the federated adapter (three
rounds, the four updates averaged); every silo alone under the same DP plan; every silo
alone without DP; the federation without DP; all records pooled without DP. Tuning is the
daemons' own `tune_round`; the average is a plain one, which the secure sum equals to
quantisation. It fails when the federated DP adapter doesn't beat the base and every silo
alone under DP on every seed. The last line is JSON.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from _record import arguments, report
from numpy.typing import NDArray

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.demo.hospital import SPECIALITIES, held_out_records, silo_records
from fedit_secure.demo.sizes import DEMO, DemoSizes
from fedit_secure.evaluation.score import score
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.adapter import attach_adapter, initial_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import Example, load_template, make_examples
from fedit_secure.tuning.local_round import tune_round
from fedit_secure.tuning.records import Record

FIRST_SEED = 100  # the sizes were chosen on seeds 0 and 1

Adapter = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Held-out NLL of one seed, in nats a token; `seconds` are of one core."""

    base: float
    federated_dp: float
    federated: float
    alone_dp: dict[str, float]
    alone: dict[str, float]
    pooled: float
    federated_dp_cpu_seconds: float

    @property
    def wins(self) -> bool:
        """Whether the federated DP adapter beats the base and every silo under DP."""
        return self.federated_dp < min(self.base, *self.alone_dp.values())

    @property
    def margin(self) -> float:
        """Nats to the best of the base and the silos alone under DP."""
        return min(self.base, *self.alone_dp.values()) - self.federated_dp


class Seed:
    """One seed's silos, first adapter and noise keys."""

    def __init__(self, seed: int, sizes: DemoSizes) -> None:
        self._sizes = sizes
        folder = base_model_path()
        self._tokenizer = load_tokenizer(folder)
        self._template = load_template("alpaca")
        model = load_base_model(folder)
        _, self._initial = initial_adapter(model, self._sizes.lora(), seed)
        self._model = attach_adapter(model, self._sizes.lora())
        self._keys = np.random.default_rng(seed)
        self._held_out = [_record(r) for r in held_out_records(seed)]
        self._silos = {
            name: make_examples(
                [_record(r) for r in silo_records(name, seed)],
                self._tokenizer,
                self._template,
                max_tokens=self._sizes.max_tokens,
            )
            for name in SPECIALITIES
        }

    def outcome(self) -> Outcome:
        """Tune and score everything."""
        private = {name: self._sizes.plan(len(e)) for name, e in self._silos.items()}
        public = {name: without_dp(plan) for name, plan in private.items()}
        base = self._nll(self._initial)
        began = time.process_time()
        adapter = self._federation(private)
        seconds = time.process_time() - began
        together = [e for examples in self._silos.values() for e in examples]
        batch = self._sizes.expected_batch * len(self._silos)
        ceiling = replace(
            next(iter(public.values())),
            expected_batch=batch,
            sample_rate=batch / len(together),
        )
        return Outcome(
            base=base,
            federated_dp=self._nll(adapter),
            federated=self._nll(self._federation(public)),
            alone_dp=self._alone(private),
            alone=self._alone(public),
            pooled=self._nll(self._rounds(together, ceiling)),
            federated_dp_cpu_seconds=seconds,
        )

    def _federation(self, plans: dict[str, DpPlan]) -> Adapter:
        adapter = self._initial
        for _ in range(self._sizes.rounds):
            updates = [
                self._update(adapter, self._silos[name], plan)
                for name, plan in plans.items()
            ]
            adapter = adapter + np.mean(updates, axis=0, dtype=np.float64)
            adapter = adapter.astype(np.float32)
        return adapter

    def _alone(self, plans: dict[str, DpPlan]) -> dict[str, float]:
        return {
            name: self._nll(self._rounds(self._silos[name], plan))
            for name, plan in plans.items()
        }

    def _rounds(self, examples: Sequence[Example], plan: DpPlan) -> Adapter:
        """As many steps as a silo takes in the federation, the optimiser fresh alike."""
        adapter = self._initial
        for _ in range(plan.rounds):
            adapter = adapter + self._update(adapter, examples, plan)
        return adapter

    def _update(
        self, adapter: Adapter, examples: Sequence[Example], plan: DpPlan
    ) -> Adapter:
        return tune_round(
            self._model,
            examples,
            plan,
            self._sizes.optimizer(),
            noise_key=self._keys.bytes(32),
            initial=adapter,
            max_tokens=self._sizes.max_tokens,
        )

    def _nll(self, adapter: Adapter) -> float:
        write_adapter(self._model, adapter)
        return score(
            self._model,
            self._tokenizer,
            self._held_out,
            self._template,
            self._sizes.max_tokens,
        ).nll


def without_dp(plan: DpPlan) -> DpPlan:
    """The same steps without clip and noise."""
    return replace(
        plan, kind="none", noise_multiplier=0.0, delta=None, target_epsilon=None
    )


def _record(record: object) -> Record:
    fields = asdict(record)  # type: ignore[call-overload]
    return Record(
        fields["instruction"],
        fields["input"],
        fields["response"],
        fields["category"],
        fields["patient_id"],
    )


def _print_row(seed: int, found: Outcome) -> None:
    alone_dp = " ".join(f"{nll:.2f}" for nll in found.alone_dp.values())
    alone = " ".join(f"{nll:.2f}" for nll in found.alone.values())
    print(
        f"{seed:>4}  {found.base:5.2f}  {found.federated_dp:7.2f}  "
        f"{found.federated:9.2f}  {alone_dp:<20} {alone:<20} {found.pooled:6.2f}  "
        f"{found.margin:6.2f}",
        flush=True,
    )


def main() -> None:
    """Print a row per seed, then the JSON line; exit 1 if a seed loses."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = 1 if options.quick else options.seeds
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + count))
    sizes = replace(DEMO, rounds=1, local_steps=4) if options.quick else DEMO
    print("held-out response NLL, nats a token; alone: " + ", ".join(SPECIALITIES))
    print("seed   base  fed, DP  fed, open  alone, DP            alone, open", end="")
    print("          pooled  margin")
    outcomes = []
    for seed in seeds:
        outcomes.append(Seed(seed, sizes).outcome())
        _print_row(seed, outcomes[-1])
    report(
        "demo_seeds",
        {
            "base_nll": [o.base for o in outcomes],
            "federated_dp_nll": [o.federated_dp for o in outcomes],
            "federated_nll": [o.federated for o in outcomes],
            "best_alone_dp_nll": [min(o.alone_dp.values()) for o in outcomes],
            "best_alone_nll": [min(o.alone.values()) for o in outcomes],
            "pooled_nll": [o.pooled for o in outcomes],
            "least_margin_nats": min(o.margin for o in outcomes),
            "federated_dp_cpu_seconds": [o.federated_dp_cpu_seconds for o in outcomes],
        },
        sizes=asdict(sizes),
        packages=("torch", "transformers", "peft", "opacus"),
        seeds=seeds,
    )
    if not options.quick and not all(outcome.wins for outcome in outcomes):
        raise SystemExit("on some seed the federated DP adapter doesn't win")


if __name__ == "__main__":
    main()
