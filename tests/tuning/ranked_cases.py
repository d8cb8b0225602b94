"""`python ranked_cases.py NUMBER MEETING OUT`: one of two processes that tune together.

Both go through all of `CASES` in their order. Process 0 writes into OUT what came out of
each: an update or a sum, or the sentence of its error. `alone` is the same by one process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from peft import PeftModel
from tiny_models import base_model, make_plan, random_examples, tuned_model, zeroed

from fedit_secure.errors import FeditError, TuningFailed
from fedit_secure.federation.aggregation import Factor
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.agreement import settle
from fedit_secure.tuning.checkpointing import checkpoint_layers
from fedit_secure.tuning.dealing import Dealer, help_round
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig, OptimizerConfig
from fedit_secure.tuning.local_round import ReadyRound, prepare_round, run_round
from fedit_secure.tuning.ranks import Kind, Ranks
from fedit_secure.tuning.sharding import shard_base

KEY = bytes(range(32))
LONGEST = 48
RECORDS = random_examples(30, longest=LONGEST)
PERSONS = [np.array(unit) for unit in np.array_split(np.arange(len(RECORDS)), 11)]
VICTIM = 7
SGD = OptimizerConfig(name="sgd", learning_rate=1.0)
ADAMW = OptimizerConfig(learning_rate=0.01)
SILENT, BLAMED, GONE = "silent", "blamed", "gone"


@dataclass(frozen=True)
class Case:
    """One round, or with `sum_only` one sum of everybody before the noise.

    `disturb` gets the ready model in process 1, before the round is settled or (`late`)
    once it is.
    """

    plan: DpPlan = field(default_factory=make_plan)
    model: Callable[[], PeftModel] = tuned_model
    optimizer: OptimizerConfig = ADAMW
    examples: tuple[Example, ...] = tuple(RECORDS)
    units: list[np.ndarray] | None = None
    budget: int = 100
    tuned: tuple[Factor, ...] | None = None
    sum_only: bool = False
    sharded: bool = False
    others_records: tuple[Example, ...] | None = None
    disturb: Callable[[PeftModel], None] = lambda model: None
    late: Callable[[PeftModel], None] = lambda model: None


def dropping() -> PeftModel:
    model = attach_adapter(base_model(), LoraConfig(rank=3, dropout=0.3))
    vector = np.random.default_rng(3).normal(0, 0.3, read_adapter(model).shape)
    write_adapter(model, vector.astype("f4"))
    return model


def halved() -> PeftModel:
    model = tuned_model()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    return model


def deep() -> PeftModel:
    return tuned_model(layers=2)


def recomputed() -> PeftModel:
    model = deep()
    checkpoint_layers(model)
    return model


class RunsOut:
    """Memory runs out in the first passes of the model, or in all of them."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, model: PeftModel) -> None:
        """From now on."""
        model.get_input_embeddings().register_forward_pre_hook(self._forward)

    def _forward(self, *_: object) -> None:
        if self.left > 0:
            self.left -= 1
            raise torch.OutOfMemoryError("a record was too large")


def other_base(model: PeftModel) -> None:
    """Another base model's weights."""
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.001)


def other_adapter(model: PeftModel) -> None:
    """An adapter that isn't kept as it is given."""
    parameter = next(p for p in model.parameters() if p.requires_grad)
    model.register_parameter("kept", torch.nn.Parameter(torch.zeros(1), False))
    read = parameter.copy_

    def spoil(given: torch.Tensor) -> torch.Tensor:
        return read(given * 1.0001)

    parameter.copy_ = spoil  # type: ignore[method-assign]


def dies_in_its_second_pass(model: PeftModel) -> None:
    """Killed as the kernel kills."""
    passes: list[int] = []

    def forward(*_: object) -> None:
        passes.append(1)
        if len(passes) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    model.get_input_embeddings().register_forward_pre_hook(forward)


PERSON = {"unit": "person", "records_per_person": 3}
ROUNDS = {
    "records": Case(make_plan(local_steps=3)),
    "another rate": Case(make_plan(sample_rate=0.2, expected_batch=5), budget=200),
    "persons": Case(make_plan(**PERSON), units=PERSONS),
    "an empty batch": Case(
        make_plan(sample_rate=1e-9, local_steps=1), lambda: tuned_model(rank=8), SGD
    ),
    "fewer physical batches than processes": Case(budget=10_000),
    "dropout": Case(model=dropping),
    "a bfloat16 base": Case(model=halved, budget=200),
    "without privacy": Case(make_plan(kind="none")),
    "one factor alone": Case(tuned=("B",)),
    "layers run again backwards": Case(model=recomputed),
    "sharded": Case(model=deep, sharded=True),
    "sharded, one factor alone": Case(model=deep, sharded=True, tuned=("A",)),
    "sharded persons": Case(
        make_plan(**PERSON), model=deep, units=PERSONS, sharded=True
    ),
    "sharded, layers run again backwards": Case(model=recomputed, sharded=True),
}
SUMS = {
    "everybody": Case(make_plan(clip=0.05), sum_only=True),
    "all but one": Case(
        make_plan(clip=0.05), sum_only=True, examples=tuple(zeroed(RECORDS, VICTIM))
    ),
    "memory runs out in process 1": Case(
        make_plan(clip=0.05), sum_only=True, budget=200, late=RunsOut(2)
    ),
}
FAILURES = {
    "other records": Case(others_records=tuple(zeroed(RECORDS, 3))),
    "another base model": Case(disturb=other_base),
    "another adapter": Case(budget=10_000, late=other_adapter),
    "a record that doesn't fit": Case(late=RunsOut(1000)),
}
CASES = ROUNDS | SUMS | FAILURES


def prepare(case: Case, *, shard: bool = False) -> ReadyRound:
    """As `job_loading.load_job` does."""
    model = case.model()
    if shard:
        shard_base(model, torch.device("cpu"))
    return prepare_round(
        model,
        case.plan,
        initial=read_adapter(model),
        max_tokens=LONGEST,
        token_budget=case.budget,
        unit_rows=case.plan.records_per_person or 1,
        tuned=case.tuned,
    )


def alone(case: Case) -> np.ndarray:
    """What one process makes of it."""
    return result(case, prepare(case), None)


def result(case: Case, ready: ReadyRound, deal: Any) -> np.ndarray:
    """The update, float32, or the sum, float64."""
    if not case.sum_only:
        return run_round(
            ready,
            case.examples,
            case.optimizer,
            noise_key=KEY,
            units=case.units,
            deal=deal,
        )
    gradients = BatchGradient(
        ready.model,
        case.examples,
        clip=ready.steps.clip,
        selective=ready.selective,
        packing=ready.packing,
        units=case.units,
        dropout_key=KEY,
    )
    sum_of = gradients.sum if deal is None else deal(gradients)
    return sum_of(np.arange(len(case.examples)), 0).numpy()


def lead(case: Case, ranks: Ranks) -> np.ndarray | str:
    """Process 0's part of a case."""
    try:
        ready = prepare(case, shard=case.sharded)
        ready = settle(ranks, ready, case.examples, case.units, LONGEST)
        return result(case, ready, lambda own: Dealer(ranks, ready, own).sum)
    except FeditError as failure:
        return f"{type(failure).__name__}: {failure}"
    finally:
        ranks.send(ranks.others, Kind.END)


def follow(case: Case, ranks: Ranks) -> None:
    """Process 1's part of it."""
    examples = case.others_records or case.examples
    ready = prepare(case, shard=case.sharded)
    case.disturb(ready.model)
    try:
        ready = settle(ranks, ready, examples, case.units, LONGEST)
        case.late(ready.model)
        help_round(ready, examples, case.units, ranks)
    except FeditError as failure:
        if "wasn't asked for" not in str(failure):  # 0 has given the case up
            ranks.tell_failure(failure)
            ranks.await_end()


def join(number: int, meeting: Path, patience: float) -> Ranks:
    dist.init_process_group(
        "gloo",
        init_method=meeting.absolute().as_uri(),
        rank=number,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    return Ranks(patience)


def main(number: int, meeting: Path, out: Path) -> None:
    """All cases; then process 1 is silent, says that it failed, and is killed."""
    torch.set_num_threads(1)
    ranks = join(number, meeting, 300.0)
    sentences = {}
    for name, case in CASES.items():
        if number:
            follow(case, ranks)
            continue
        found = lead(case, ranks)
        if isinstance(found, str):
            sentences[name] = found
        else:
            np.save(out / f"{name}.npy", found)
    hurried = Ranks(1.0)
    dying = replace(ROUNDS["records"], late=dies_in_its_second_pass)
    if number:
        ranks.tell_failure(TuningFailed("it broke"))
        ranks.receive(0, Kind.WAIT)
        follow(dying, ranks)
        time.sleep(300)  # not reached
    for name, act in (
        (SILENT, lambda: hurried.receive(1, Kind.PART)),
        (BLAMED, ranks.blame),
        (GONE, lambda: lead_to_the_end(dying, ranks)),
    ):
        try:
            act()
        except FeditError as failure:
            sentences[name] = f"{type(failure).__name__}: {failure}"
    (out / "sentences.json").write_text(json.dumps(sentences))
    os._exit(0)


def lead_to_the_end(case: Case, ranks: Ranks) -> None:
    """As `lead`, with nobody left to be told of the end."""
    ranks.send(1, Kind.WAIT)
    ready = prepare(case)
    ready = settle(ranks, ready, case.examples, case.units, LONGEST)
    result(case, ready, lambda own: Dealer(ranks, ready, own).sum)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
