"""What the federated adapter is held against: base, every silo alone, all data pooled.

All of them start from the same base model and initial adapter and take the plan's steps;
alone and pooled tune in this process, with the code that the daemons tune with.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.numpy import load_file

from fedit_secure.demo.material import Material
from fedit_secure.evaluation.score import (
    continue_prompts,
    cut_prompts,
    rate_answers,
    score,
)
from fedit_secure.federation.update import to_float32
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.silo.jobs import lora_of, optimizer_of
from fedit_secure.simulation.parties import LocalFederation
from fedit_secure.tuning.adapter import attach_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import Example, load_template, make_examples
from fedit_secure.tuning.local_round import tune_round
from fedit_secure.tuning.records import Record, load_records

ANSWER_TOKENS = 32
ANSWERS = 96  # held-out records that get an answer, for ROUGE-L
Adapter = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: held-out NLL (nats a token) and ROUGE-L (0 to 1)."""

    name: str
    private: bool
    nll: float
    rouge_l: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One held-out prompt with its reference, answered by the base and the federation."""

    prompt: str
    reference: str
    before: str
    after: str


class Baselines:
    """Scores every adapter of one finished federation on the held-out records."""

    def __init__(self, federation: LocalFederation, material: Material) -> None:
        charter = federation.charter
        torch.set_num_threads(1)
        self._federation, self._material, self._charter = federation, material, charter
        self._model = attach_adapter(
            load_base_model(federation.base_model), lora_of(charter)
        )
        self._spare: SimpleQueue[PeftModel] = SimpleQueue()
        self._tokenizer = load_tokenizer(federation.base_model)
        self._template = load_template(charter.template.name, self._tokenizer)
        self._initial = to_float32(federation.initial)
        step = max(1, len(material.held_out) // ANSWERS)
        self._asked = list(material.held_out)[::step]

    def table(self, say: Callable[[str], None]) -> list[Row]:
        """Base, every silo alone with and without DP, the federation, the ceiling."""
        names = list(self._federation.silos)
        jobs: list[tuple[str, bool, list[Example], DpPlan]] = []
        pooled: list[Example] = []
        for name in names:
            examples = self._examples(load_records(self._federation.data[name]))
            pooled += examples
            plan = self._charter.plan_for(name)
            jobs.append((f"{name} alone", True, examples, plan))
            jobs.append((f"{name} alone", False, examples, without_dp(plan)))
        jobs.append(("pooled (ceiling)", False, pooled, self._pooled_plan(len(pooled))))
        jobs.sort(
            key=lambda job: not job[1]
        )  # the private ones first, in the table too
        adapters = self._tuned_side_by_side(jobs, say)
        say(f"scoring {len(jobs) + 2} adapters on held-out records")
        rows = [self._row("base model", self._initial, private=False)]
        for number, (name, private, _, _) in enumerate(jobs):
            if number == len(names):
                rows.append(self._row("federated", self._federated(), private=True))
            rows.append(self._row(name, adapters[number], private=private))
        return rows

    def _tuned_side_by_side(
        self,
        jobs: Sequence[tuple[str, bool, list[Example], DpPlan]],
        say: Callable[[str], None],
    ) -> list[Adapter]:
        """The adapter of every job.

        Models this small don't fill two cores with one operation, so each core tunes one,
        on one thread; the longest job, the ceiling, is the last of the list and starts
        first.
        """
        cores = os.cpu_count() or 1
        for _ in range(cores):
            self._spare.put(copy.deepcopy(self._model))
        with ThreadPoolExecutor(cores) as pool:
            tuning = {
                pool.submit(self._tuned, examples, plan): number
                for number, (_, _, examples, plan) in reversed([*enumerate(jobs)])
            }
            for ended in as_completed(tuning):
                name, private, *_ = jobs[tuning[ended]]
                say(f"  {name}, {'with' if private else 'without'} DP")
        return [ended.result() for ended in sorted(tuning, key=tuning.__getitem__)]

    def _pooled_plan(self, records: int) -> DpPlan:
        """As many records as the whole federation processes, without DP."""
        plans = [self._charter.plan_for(name) for name in self._federation.silos]
        batch = sum(plan.expected_batch for plan in plans)
        rate = min(1.0, batch / records)
        return replace(without_dp(plans[0]), sample_rate=rate, expected_batch=batch)

    def samples(self, count: int = 2) -> list[Sample]:
        """Prompts of different categories on which the federation changed most."""
        by_category: dict[str, Record] = {}
        for record in self._asked:
            by_category.setdefault(record.category or "", record)
        records = list(by_category.values())
        before, after = (
            self._answers(adapter, records)
            for adapter in (self._initial, self._federated())
        )
        gains = [
            rate_answers([b], [r]).rouge_l - rate_answers([a], [r]).rouge_l
            for a, b, r in zip(before, after, records, strict=True)
        ]
        best = sorted(range(len(records)), key=lambda i: -gains[i])[:count]
        return [
            Sample(
                " | ".join(filter(None, (records[i].instruction, records[i].input))),
                records[i].response,
                before[i],
                after[i],
            )
            for i in best
        ]

    def _row(self, name: str, adapter: Adapter, *, private: bool) -> Row:
        write_adapter(self._model, adapter)
        nll = score(
            self._model,
            self._tokenizer,
            self._material.held_out,
            self._template,
            self._charter.max_tokens,
        ).nll
        rouge = rate_answers(self._answers(adapter, self._asked), self._asked).rouge_l
        return Row(name, private, nll, rouge)

    def _answers(self, adapter: Adapter, records: Sequence[Record]) -> list[str]:
        write_adapter(self._model, adapter)
        parts = (self._model, self._tokenizer)
        prompts = cut_prompts(*parts, records, self._template, ANSWER_TOKENS)
        stops = self._template.stops(self._tokenizer)
        return continue_prompts(*parts, prompts, ANSWER_TOKENS, stops=stops)

    def _tuned(self, examples: Sequence[Example], plan: DpPlan) -> Adapter:
        """As many rounds and steps as a silo takes in the federation."""
        model = self._spare.get()  # a thread has a model to itself
        adapter = self._initial
        try:
            for round in range(1, plan.rounds + 1):
                adapter = adapter + tune_round(
                    model,
                    examples,
                    plan,
                    optimizer_of(self._charter, round),
                    noise_key=os.urandom(32),
                    initial=adapter,
                    max_tokens=self._charter.max_tokens,
                )
        finally:
            self._spare.put(model)
        return adapter

    def _federated(self) -> Adapter:
        """The adapter that the aggregator saved, in the charter's order."""
        run = self._charter.digest().hex()[:16]
        state = self._federation.folder / "aggregator" / "state" / run
        tensors = load_file(state / "adapter" / "adapter_model.safetensors")
        parts = [tensors[name].reshape(-1) for name, _ in self._charter.adapter.layout]
        return np.concatenate(parts).astype(np.float32)

    def _examples(self, records: Sequence[Record]) -> list[Example]:
        return make_examples(
            records,
            self._tokenizer,
            self._template,
            max_tokens=self._charter.max_tokens,
        )


def without_dp(plan: DpPlan) -> DpPlan:
    """The same steps without clip and noise."""
    return replace(
        plan, kind="none", noise_multiplier=0.0, delta=None, target_epsilon=None
    )
