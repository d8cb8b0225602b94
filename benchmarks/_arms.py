"""One arm of a comparison: tuned on some records in some way, scored on held-out ones.

Every arm is one function of plain values, so that it can be computed in another process
and kept on disk. The federation here adds what silos would send as real numbers. That
the secure sum gives the same to its quantisation is measured by an arm of its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from _silos import Parts, Setup, parts_of
from numpy.typing import NDArray

from fedit_secure.evaluation.score import score
from fedit_secure.federation.aggregation import (
    BOTH,
    Aggregation,
    Factor,
    factors,
    kept_factors,
    places,
    released_factors,
)
from fedit_secure.federation.local_plan import Decay
from fedit_secure.federation.server_rules import Adaptive, FedAvg, FedAvgM, UpdateRule
from fedit_secure.federation.update import FRACTION_BITS
from fedit_secure.privacy.accountant import calibrate
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.adapter import (
    adapter_layout,
    attach_adapter,
    initial_adapter,
    read_adapter,
    tune_only,
    write_adapter,
)
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import Example, load_template, make_examples
from fedit_secure.tuning.job import LoraConfig, OptimizerConfig
from fedit_secure.tuning.local_round import ReadyRound, prepare_round, run_round
from fedit_secure.tuning.own_text import turned_to_own_text
from fedit_secure.tuning.record_loss import device_of
from fedit_secure.tuning.records import Record

Kind = Literal["base", "alone", "federated", "pooled", "rehearsal", "rehearsed_pooled"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an arm is tuned. `batch` is B-bar of a silo; epsilon None: without DP.

    `by_records`: silos share as many records a step, and weigh, by how many they have, so
    that all of them sample at one rate.
    """

    rounds: int = 3
    steps: int = 8
    batch: int = 64
    by_records: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rate: float = 3e-3
    b_ratio: float = 1.0
    decay: Literal["linear", "cosine"] | None = None
    clip: float = 0.5
    epsilon: float | None = None
    delta: float = 1e-5
    rank: int = 8
    init: Literal["random", "own-text"] = "random"
    targets: tuple[str, ...] = ()
    aggregation: Aggregation | None = None
    rule: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"] = "fedavg"
    server_rate: float = 1.0
    momentum: float = 0.9
    tau: float = 1e-3
    proximal: float = 0.0
    template: str = "alpaca_short"
    max_tokens: int = 128

    @property
    def method(self) -> str:
        """The aggregation method's name."""
        return self.aggregation or "fedit"


@dataclass(frozen=True, slots=True)
class Arm:
    """What is computed, on which data, scored on which part."""

    setup: Setup
    kind: Kind
    recipe: Recipe
    silo: str = ""
    part: Literal["validation", "test"] = "test"


@lru_cache(maxsize=1)
def _parts(setup: Setup) -> Parts:
    return parts_of(setup)


@lru_cache(maxsize=32)
def _examples_of(
    records: tuple[Record, ...], base: Path, template: str, max_tokens: int
) -> tuple[Example, ...]:
    """Kept from arm to arm of a process: everybody's records take some ten seconds."""
    tokenizer = load_tokenizer(base)
    return tuple(make_examples(records, tokenizer, template, max_tokens))


def run_arm(arm: Arm, base: str) -> dict[str, Any]:
    """`nlls`: of every held-out record, nats a response token; and how long it took."""
    import torch

    torch.set_num_threads(1)
    began = time.monotonic()
    bench = Bench(arm, Path(base))
    adapter = getattr(bench, arm.kind)()
    return {
        "arm": asdict(arm),
        "nlls": bench.nlls(adapter).tolist(),
        "seconds": time.monotonic() - began,
    }


def plan_of(recipe: Recipe, batch: int, records: int) -> DpPlan:
    """A silo's plan; its noise is calibrated to the run with its one spare charge."""
    batch = min(batch, records)
    rate, spare = batch / records, 1
    steps = (recipe.rounds + spare) * recipe.steps
    private = recipe.epsilon is not None
    return DpPlan(
        kind="local" if private else "none",
        sample_rate=rate,
        noise_multiplier=(
            calibrate(recipe.epsilon, recipe.delta, rate, steps)
            if recipe.epsilon is not None
            else 0.0
        ),
        clip=recipe.clip,
        expected_batch=batch,
        local_steps=recipe.steps,
        rounds=recipe.rounds,
        spare_charges=spare,
        delta=recipe.delta if private else None,
        target_epsilon=recipe.epsilon,
    )


def lora_of(recipe: Recipe) -> LoraConfig:
    """Where adapters are; without targets in every linear layer."""
    return LoraConfig(
        rank=recipe.rank,
        alpha=2.0 * recipe.rank,
        targets=recipe.targets or "all-linear",
    )


REHEARSED = 256
"""Records of a rehearsal's step."""
CPU_TOKENS = 2048
"""Of a physical batch, so that processes side by side don't each take all free memory."""


class Bench:
    """The model, the examples, and the loops over rounds."""

    def __init__(self, arm: Arm, base: Path) -> None:
        self.arm, self.recipe = arm, arm.recipe
        self.parts = _parts(arm.setup)
        self._base, self._tokenizer = base, load_tokenizer(base)
        self._template = load_template(arm.recipe.template)
        lora = lora_of(arm.recipe)
        model = load_base_model(base, device="auto")
        self.layout, self.initial = initial_adapter(model, lora, arm.setup.seed)
        if arm.recipe.init == "own-text":
            self.initial = turned_to_own_text(
                model,
                lora,
                self.initial,
                self._tokenizer,
                self._template,
                arm.recipe.max_tokens,
                seed=arm.setup.seed,
            )
        self.model = attach_adapter(model, lora)
        assert adapter_layout(self.model) == self.layout
        self._ready: dict[tuple[DpPlan, tuple[Factor, ...]], ReadyRound] = {}

    def base(self) -> Floats:
        return self.initial.astype(np.float64)

    def alone(self) -> Floats:
        return self._rounds({self.arm.silo: self.parts.silos[self.arm.silo]})

    def federated(self) -> Floats:
        return self._rounds(self.parts.silos)

    def pooled(self) -> Floats:
        """One silo of everybody's records; `batch` is of them together."""
        return self._rounds({"pooled": self._everybody()})

    def rehearsal(self) -> Floats:
        """What `federated` gives under DP with one step a round, nearly, for less work.

        The mean of the silos' steps is one step on all records. Here fewer are drawn, and
        the noise is the mean's: what the smaller sample adds is little beside it.
        """
        return self._rehearsed(self.parts.silos)

    def rehearsed_pooled(self) -> Floats:
        """What `pooled` gives, in the same way."""
        return self._rehearsed({"pooled": self._everybody()})

    def _rehearsed(self, silos: Mapping[str, Sequence[Record]]) -> Floats:
        assert self.recipe.steps == 1
        plans, weights = self._plans(silos)
        noise = np.linalg.norm(
            [
                weight * plan.noise_multiplier / plan.expected_batch
                for plan, weight in zip(plans.values(), weights, strict=True)
            ]
        )
        everybody = {"everybody": self._everybody()}
        size = len(everybody["everybody"])
        drawn = min(REHEARSED, size)
        plan = replace(
            next(iter(plans.values())),
            sample_rate=drawn / size,
            expected_batch=drawn,
            noise_multiplier=float(noise) * drawn,
        )
        return self._rounds(everybody, {"everybody": plan})

    def _everybody(self) -> list[Record]:
        return [record for own in self.parts.silos.values() for record in own]

    def _plans(
        self, silos: Mapping[str, Sequence[Record]]
    ) -> tuple[dict[str, DpPlan], Floats]:
        """Each silo's, and how its update weighs."""
        sizes = np.array([len(own) for own in silos.values()])
        weights = np.full(len(sizes), 1 / len(sizes))
        if self.recipe.by_records:
            weights = sizes / sizes.sum()
        batches = np.maximum(1, np.rint(self.recipe.batch * len(sizes) * weights))
        plans = {
            name: plan_of(self.recipe, int(batch), int(size))
            for name, batch, size in zip(silos, batches, sizes, strict=True)
        }
        return plans, weights

    def _rounds(
        self,
        silos: Mapping[str, Sequence[Record]],
        plans: Mapping[str, DpPlan] | None = None,
    ) -> Floats:
        own, weights = self._plans(silos)
        plans = plans or own
        examples = {name: self._examples(records) for name, records in silos.items()}
        rule = rule_of(self.recipe)
        grid = float(1 << FRACTION_BITS)
        state = np.rint(self.initial.astype(np.float64) * grid)
        moments = [np.full(len(state), v) for v in rule.first(FRACTION_BITS)]
        method = self.recipe.aggregation
        kept = self._at(kept_factors(method))
        own = dict.fromkeys(silos, state[kept] / grid)
        for round in range(1, self.recipe.rounds + 1):
            tuned = factors(method, round)
            at = self._at(released_factors(method, round))
            changes = []
            for name in silos:
                adapter = state / grid
                adapter[kept] = own[name]
                change = np.zeros(len(state))
                change[self._at(tuned)] = self._tune(
                    examples[name],
                    plans[name],
                    name,
                    round,
                    adapter.astype(np.float32),
                    tuned,
                )
                own[name] = own[name] + change[kept]
                changes.append(change[at])
            mean = np.average(changes, axis=0, weights=weights) * grid
            moved, after = rule.step(
                mean, [m[at].astype(np.int64) for m in moments], FRACTION_BITS
            )
            state[at] += moved
            for moment, new in zip(moments, after, strict=True):
                moment[at] = new
        if not len(kept):
            return state / grid
        adapters = np.tile(state / grid, (len(own), 1))
        adapters[:, kept] = list(own.values())
        return adapters

    def _at(self, chosen: tuple[Factor, ...]) -> NDArray[np.int64]:
        """The coordinates of these factors."""
        parts = places(self.layout, chosen) if chosen else ()
        return np.concatenate(
            [np.arange(0), *(np.arange(p.start, p.stop) for p in parts)]
        ).astype(np.int64)

    def nlls(self, adapter: Floats) -> Floats:
        """Of every held-out record; the mean over adapters, where each silo has its own.

        NaN where the cut left a record no response.
        """
        records = getattr(self.parts, self.arm.part)
        examples = self._examples(records)
        kept = [r for r, e in zip(records, examples, strict=True) if e.labels]
        tune_only(self.model, BOTH)
        found = []
        for each in np.atleast_2d(adapter):
            write_adapter(self.model, each.astype(np.float32))
            cut = self.recipe.max_tokens
            scores = score(self.model, self._tokenizer, kept, self._template, cut)
            found.append(scores.record_nlls)
        nlls = np.full(len(records), np.nan)
        nlls[[e.labels > 0 for e in examples]] = np.mean(found, axis=0)
        return nlls

    def _tune(
        self,
        examples: Sequence[Example],
        plan: DpPlan,
        name: str,
        round: int,
        adapter: NDArray[np.float32],
        tuned: tuple[Factor, ...],
    ) -> NDArray[np.float32]:
        recipe = self.recipe
        fall = 1.0
        if recipe.decay is not None:
            fall = Decay(kind=recipe.decay).factor(round, recipe.rounds)
        ready = self._prepared(plan, adapter, tuned)
        # A benchmark's noise can be drawn again; a silo's can't.
        key = f"{self.arm}/{name}/{round}".encode()
        return run_round(
            ready,
            examples,
            OptimizerConfig(
                name=recipe.optimizer,
                learning_rate=recipe.rate * fall,
                b_rate_ratio=recipe.b_ratio,
                proximal=recipe.proximal,
            ),
            noise_key=hashlib.sha256(key).digest(),
        )

    def _prepared(
        self, plan: DpPlan, adapter: NDArray[np.float32], tuned: tuple[Factor, ...]
    ) -> ReadyRound:
        """As `prepare_round`, which tries out the model: here once, and not each round."""
        on_cpu = device_of(self.model).type == "cpu"
        if (plan, tuned) not in self._ready:
            self._ready[plan, tuned] = prepare_round(
                self.model,
                plan,
                initial=adapter,
                max_tokens=self.recipe.max_tokens,
                token_budget=CPU_TOKENS if on_cpu else None,
                tuned=tuned,
            )
        tune_only(self.model, BOTH)
        write_adapter(self.model, adapter)
        tune_only(self.model, tuned)
        initial = read_adapter(self.model)
        return replace(self._ready[plan, tuned], initial=initial)

    def _examples(self, records: Sequence[Record]) -> tuple[Example, ...]:
        recipe = self.recipe
        return _examples_of(
            tuple(records), self._base, recipe.template, recipe.max_tokens
        )


def rule_of(recipe: Recipe) -> UpdateRule:
    """How the mean moves the adapter."""
    if recipe.rule == "fedavg":
        return FedAvg()
    if recipe.rule == "fedavgm":
        return FedAvgM(learning_rate=recipe.server_rate, momentum=recipe.momentum)
    return Adaptive(name=recipe.rule, learning_rate=recipe.server_rate, tau=recipe.tau)


def alone_arms(setup: Setup, recipe: Recipe) -> list[Arm]:
    """An arm of every silo by itself."""
    return [Arm(setup, "alone", recipe, silo) for silo in _parts(setup).silos]


def on_validation(arm: Arm) -> Arm:
    """The same, scored on the part that choices are made on."""
    return replace(arm, part="validation")
