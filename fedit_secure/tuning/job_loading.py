"""From a tuning job to a round that is ready: its records, its model, and every check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.job import TuneJob

if TYPE_CHECKING:
    from torch import nn

    from fedit_secure.privacy.evaluation import EvaluationPlan
    from fedit_secure.tuning.batches import Slots
    from fedit_secure.tuning.examples import Example
    from fedit_secure.tuning.held_out import HeldOut
    from fedit_secure.tuning.local_round import ReadyRound


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """What `run_round` takes of a job. Nothing has been sampled yet.

    `held_out` is None where the silo holds nothing out, `evaluation` where nothing of it
    is released.
    """

    ready: ReadyRound
    examples: list[Example]
    units: tuple[Slots, ...] | None
    held_out: HeldOut | None = None
    evaluation: EvaluationPlan | None = None


def load_job(
    job: TuneJob,
    initial: Any = None,
    before_sharding: Callable[[], None] = lambda: None,
) -> LoadedJob:
    """Load and check everything that `job` names.

    Args:
        job: what to tune.
        initial: float32, shape (d,): the adapter to start from; None to read it from
            `job.state_path`.
        before_sharding: called when the model is whole and about to be split over all
            processes, if the job says so.

    Raises:
        ConfigError, TuningFailed: what is wrong with it.
    """
    from fedit_secure.privacy.plan import DpPlan
    from fedit_secure.tuning import base_model
    from fedit_secure.tuning.examples import (
        load_template,
        make_examples,
        require_template,
    )
    from fedit_secure.tuning.held_out import set_apart
    from fedit_secure.tuning.records import load_records
    from fedit_secure.tuning.units import (
        planned_units,
        require_held_out,
        require_persons,
    )

    # What can be wrong without a model is looked at before its libraries are loaded,
    # which takes seconds.
    try:
        plan = DpPlan.from_dict(job.plan)
    except ValueError as wrong:
        raise ConfigError(f"tuning job: plan: {wrong}") from None
    require_persons(job.data.columns, plan.unit)
    require_held_out(job.data.held_out is not None, plan.evaluation)
    if plan.unit == "person" and job.unit_key is None:
        raise ConfigError("tuning job: unit_key: a plan per person needs it")
    require_template(job.template)
    records = load_records(job.data)
    units = planned_units(records, plan, bytes.fromhex(job.unit_key or ""))
    if initial is None:
        initial = read_state(Path(job.state_path), job.length)
    folder = base_model.resolve_base_model(job.model)
    if job.model_digest is not None:
        base_model.check_digest(folder, job.model_digest)
    tokenizer = base_model.load_tokenizer(folder)
    examples = make_examples(
        records,
        tokenizer,
        load_template(job.template, tokenizer, job.template_digest),
        job.max_tokens,
        response_only=job.train_on_response_only,
    )
    held_out = None
    if job.data.held_out is not None:
        examples, held_out = set_apart(records, examples, units)

    import torch

    from fedit_secure.tuning.local_round import prepare_round

    torch.set_num_threads(job.threads)
    ready = prepare_round(
        _tuned_model(job, folder, tokenizer, before_sharding),
        plan,
        initial=initial,
        max_tokens=job.max_tokens,
        token_budget=job.token_budget,
        # What the plan allows, not what the data has: the trial must not tell of it.
        unit_rows=plan.records_per_person or 1,
        sharers=job.torchrun.processes,
        tuned=job.tuned,
    )
    return LoadedJob(ready, examples, units, held_out, plan.evaluation)


def read_state(path: Path, length: int) -> Any:
    """The flat float32 vector `adapter` of a safetensors file.

    Raises:
        ConfigError: no such file, damaged, or not one float32 vector of `length`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError, AttributeError) as wrong:
        # The last two: a type of tensor that numpy doesn't have.
        raise ConfigError(
            f"{path}: the adapter state can't be read ({type(wrong).__name__})"
        ) from None
    vector = tensors.get("adapter")
    if vector is None or vector.dtype != "float32" or vector.shape != (length,):
        raise ConfigError(
            f"{path}: must hold one float32 vector 'adapter' of {length} coordinates"
        )
    return vector


def _tuned_model(
    job: TuneJob, folder: Path, tokenizer: Any, before_sharding: Callable[[], None]
) -> nn.Module:
    """The base model with its adapter, on its device or split over those of all."""
    from fedit_secure.tuning import adapter, base_model, checkpointing
    from fedit_secure.tuning.sharding import shard_base

    shard = job.torchrun.shard
    if shard and job.quantization != "none":
        raise ConfigError(
            "a quantised base model can't be split over processes: 'torchrun.shard' "
            "goes with quantization none"
        )
    model = base_model.load_base_model(
        folder,
        # Whole, it may not fit anywhere else.
        device="cpu" if shard else job.device,
        precision=job.precision,
        quantization=job.quantization,
    )
    base_model.refuse_too_long(model, tokenizer, job.max_tokens)
    tuned = adapter.attach_adapter(model, job.lora)
    if job.checkpointing:
        checkpointing.checkpoint_layers(tuned)
    adapter.check_layout(tuned, job.layout)
    if shard:
        before_sharding()
        shard_base(tuned, base_model.chosen_device(job.device))
    return tuned
