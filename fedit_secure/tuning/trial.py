"""The child process of a trial: `python -m fedit_secure.tuning.trial`.

It tries, on records that it makes up, everything that a round's tuning does with the base
model, up to one DP-SGD step. It reads no record, knows no ledger and writes no file: so it
may run beside a daemon, and before there is a charter.

On standard input one line of JSON, the `TrialJob`. On standard output one line a step:

    {"step": "torch", "found": sentence, "warning": sentence or null}
    {"step": "model", "error": sentence, "exit_status": n}             and nothing after it
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedit_secure.errors import FeditError, TuningFailed
from fedit_secure.tuning.trial_job import STEPS, TrialJob
from fedit_secure.tuning.worker import (
    NOISE_KEY_BYTES,
    die_with_parent,
    take_standard_output,
)

if TYPE_CHECKING:
    from torch import nn

    from fedit_secure.tuning.local_round import ReadyRound

_RECORDS = 8
_MIB = 1 << 20

Told = tuple[str, str | None]
"""What was found, and what to mind about it."""


def main() -> int:
    """Try what standard input describes; the exit status says how it went."""
    die_with_parent(os.getppid())
    wire = take_standard_output()

    def tell(**fields: object) -> None:
        wire.write(json.dumps(fields).encode() + b"\n")
        wire.flush()

    steps = iter(STEPS)
    step = next(steps)
    try:
        for found, warning in tried(TrialJob.from_json(sys.stdin.buffer.readline())):
            tell(step=step, found=found, warning=warning)
            step = next(steps, "")
    except FeditError as failure:
        tell(step=step, error=str(failure), exit_status=failure.exit_status)
        return failure.exit_status
    except ModuleNotFoundError as failure:
        sentence = f"the package {failure.name} isn't installed"
        tell(step=step, error=sentence, exit_status=4)
        return 4
    except Exception as failure:  # noqa: BLE001 - another library's, of any type
        sentence = f"it fails with {type(failure).__name__}: {failure}".splitlines()[0]
        tell(step=step, error=sentence, exit_status=TuningFailed.exit_status)
        return TuningFailed.exit_status
    return 0


def tried(job: TrialJob) -> Iterator[Told]:
    """Each of STEPS in turn, as it passes. Raises at the first that doesn't."""
    import torch

    from fedit_secure.tuning.base_model import needs_fixed_shapes
    from fedit_secure.tuning.preflight import check_model, fitting_packing

    yield _torch(job)
    torch.set_num_threads(job.threads)
    model, max_tokens = _loaded(job)
    yield _size(model), None
    ready = _ready(job, model)
    fixed = needs_fixed_shapes(model)
    selective = check_model(model, ready.initial, max_tokens, fixed=fixed)
    yield _layers(model), None
    packing = fitting_packing(
        model,
        clip=ready.steps.clip,
        selective=selective,
        max_tokens=max_tokens,
        token_budget=job.token_budget,
        unit_rows=job.unit_rows,
        fixed=fixed,
    )
    yield _memory(job, model, packing.token_budget)
    yield _step(job, replace(ready, selective=selective, packing=packing), max_tokens)


def _torch(job: TrialJob) -> Told:
    import torch

    from fedit_secure.tuning.base_model import check_devices, chosen_device

    place = chosen_device(job.device)
    check_devices(job.device, job.processes)
    about = f"torch {torch.__version__} on {place}"
    if place.type == "cuda":
        return f"{about}, {torch.cuda.get_device_name(place)}", None
    if torch.cuda.is_available():
        return about, "there is a CUDA device, and 'device' is cpu"
    why = "finds no CUDA device" if torch.version.cuda else "is built without CUDA"
    return f"{about}; this torch {why}", None


def _loaded(job: TrialJob) -> tuple[nn.Module, int]:
    from pathlib import Path

    from fedit_secure.tuning import adapter, base_model, checkpointing

    folder = Path(job.model)
    tokenizer = base_model.load_tokenizer(folder)
    model = base_model.load_base_model(
        folder,
        device=job.device,
        precision=job.precision,
        quantization=job.quantization,
    )
    max_tokens = job.max_tokens
    if job.layout is None:
        config = model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        max_tokens = min(max_tokens, positions or max_tokens)
    base_model.refuse_too_long(model, tokenizer, max_tokens)
    tuned = adapter.attach_adapter(model, job.lora)
    if job.checkpointing:
        checkpointing.checkpoint_layers(tuned)
    if job.layout is not None:
        adapter.check_layout(tuned, job.layout)
    tuned.eval()
    return tuned, max_tokens


def _ready(job: TrialJob, model: nn.Module) -> ReadyRound:
    """A round of one step in which every made-up record takes part."""
    from fedit_secure.privacy.plan import DpPlan
    from fedit_secure.tuning.adapter import read_adapter
    from fedit_secure.tuning.batches import Packing
    from fedit_secure.tuning.local_round import ReadyRound

    plan = DpPlan(
        kind="local" if job.private else "none",
        sample_rate=1.0,
        noise_multiplier=1.0 if job.private else 0.0,
        clip=1.0,
        expected_batch=_RECORDS,
        local_steps=1,
        rounds=1,
        delta=1e-6 if job.private else None,
    )
    steps, initial = plan.step_arguments(), read_adapter(model)
    return ReadyRound(model, steps, initial, False, Packing(job.max_tokens))


def _size(model: nn.Module) -> str:
    from fedit_secure.tuning.adapter import adapter_parameters

    whole = sum(parameter.numel() for parameter in model.parameters())
    tuned = sum(parameter.numel() for _, parameter in adapter_parameters(model))
    return f"it loads: {whole - tuned:,} parameters, and an adapter of {tuned:,}"


def _layers(model: nn.Module) -> str:
    from fedit_secure.tuning.adapter import adapter_parameters

    keys = [key for key, _ in adapter_parameters(model)]
    layers = sum(".lora_A." in key for key in keys)
    return (
        f"each of {layers} adapted layers shows one gradient a record, the same in a "
        "batch as alone"
    )


def _memory(job: TrialJob, model: nn.Module, fits: int) -> Told:
    from fedit_secure.tuning.memory import free_bytes
    from fedit_secure.tuning.record_loss import device_of

    place = device_of(model)
    left = free_bytes(place) // _MIB
    found = (
        f"batches of {fits:,} tokens fit; {left:,} MiB on {place} are free beside them"
    )
    asked = job.token_budget
    if asked is not None and fits < asked:
        return found, f"token_budget is {asked:,}, for which the memory is too small"
    return found, None


def _step(job: TrialJob, ready: ReadyRound, max_tokens: int) -> Told:
    import numpy as np

    from fedit_secure.tuning.base_model import vocabulary
    from fedit_secure.tuning.local_round import run_round
    from fedit_secure.tuning.preflight import synthetic_examples

    lengths = np.linspace(8, max(8, min(max_tokens, 256)), _RECORDS).astype(int)
    examples = synthetic_examples(vocabulary(ready.model), lengths.tolist())
    begun = time.monotonic()
    update = run_round(
        ready,
        examples,
        job.optimizer,
        noise_key=os.urandom(NOISE_KEY_BYTES),
        threads=job.threads,
    )
    seconds = time.monotonic() - begun
    if not np.isfinite(update).all() or not update.any():
        raise TuningFailed("the step's update is zero, or isn't finite")
    kind: Any = "DP-SGD step" if job.private else "step without differential privacy"
    return f"one {kind} on {_RECORDS} made-up records took {seconds:.2g} s", None


if __name__ == "__main__":
    sys.exit(main())
