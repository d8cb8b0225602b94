"""The child process of one tuning job: `python -m fedit_secure.tuning.worker`.

On standard input: one line of JSON, the `TuneJob`; later one line, `sample`, which the
parent writes once the job's privacy cost is on its ledger. On standard output: lines of
JSON, and after the last one the update:

    {"phase": "loading"}                         the model and the records
    {"phase": "ready"}                           all checks passed, nothing sampled yet
    {"phase": "tuning", "step": 1, "of": 6}      once a step
    {"phase": "done", "length": d, "sha256": h}  then d float32 values, little-endian
    {"phase": "failed", "error": sentence, "exit_status": n}

Nothing else leaves: no loss, no norm, no size of a batch. The noise key is drawn here
and dies here. The process ends with its parent, whichever way that one ends.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fedit_secure.errors import ConfigError, FeditError, TuningFailed
from fedit_secure.tuning.job import TuneJob

NOISE_KEY_BYTES = 32
START_SAMPLING = "sample"
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_INT = 2**31 - 1


def main() -> int:
    """Run the job that standard input describes; the exit status says how it went."""
    parent = os.getppid()
    die_with_parent(parent)
    wire = take_standard_output()
    # Unbuffered: a buffer's lock, held by the watching thread, would abort our exit.
    lines = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
    job_line = lines.readline()
    start = _watch_standard_input(lines)

    def tell(**fields: object) -> None:
        wire.write(json.dumps(fields).encode() + b"\n")
        wire.flush()

    try:
        update = tune(TuneJob.from_json(job_line), tell, start)
    except FeditError as failure:
        tell(phase="failed", error=str(failure), exit_status=failure.exit_status)
        return failure.exit_status
    # The parent gets the kind only: a foreign error's text may quote a record.
    except Exception as failure:
        kind = type(failure).__name__
        status = TuningFailed.exit_status
        sentence = f"the tuning worker failed ({kind})"
        tell(phase="failed", error=sentence, exit_status=status)
        raise
    digest = hashlib.sha256(update).hexdigest()
    tell(phase="done", length=len(update) // 4, sha256=digest)
    wire.write(update)
    wire.flush()
    return 0


def tune(job: TuneJob, tell: Any, start: threading.Event) -> bytes:
    """The update of `job` as little-endian float32 bytes."""
    tell(phase="loading")
    from fedit_secure.privacy.plan import DpPlan
    from fedit_secure.tuning import base_model
    from fedit_secure.tuning.examples import load_template, make_examples
    from fedit_secure.tuning.records import load_records
    from fedit_secure.tuning.units import planned_units, require_persons

    # What can be wrong without a model is looked at before its libraries are loaded,
    # which takes seconds.
    try:
        plan = DpPlan.from_dict(job.plan)
    except ValueError as wrong:
        raise ConfigError(f"tuning job: plan: {wrong}") from None
    require_persons(job.data.columns, plan.unit)
    if plan.unit == "person" and job.unit_key is None:
        raise ConfigError("tuning job: unit_key: a plan per person needs it")
    template = load_template(job.template)
    records = load_records(job.data)
    units = planned_units(records, plan, bytes.fromhex(job.unit_key or ""))
    initial = read_state(Path(job.state_path), job.length)
    folder = base_model.resolve_base_model(job.model)
    if job.model_digest is not None:
        base_model.check_digest(folder, job.model_digest)
    tokenizer = base_model.load_tokenizer(folder)
    examples = make_examples(
        records,
        tokenizer,
        template,
        job.max_tokens,
        response_only=job.train_on_response_only,
    )

    import torch

    from fedit_secure.tuning import adapter, checkpointing
    from fedit_secure.tuning.local_round import prepare_round, run_round

    torch.set_num_threads(job.threads)
    model = base_model.load_base_model(
        folder,
        device=job.device,
        precision=job.precision,
        quantization=job.quantization,
    )
    base_model.refuse_too_long(model, tokenizer, job.max_tokens)
    tuned = adapter.attach_adapter(model, job.lora)
    if job.checkpointing:
        checkpointing.checkpoint_layers(tuned)
    adapter.check_layout(tuned, job.layout)
    ready = prepare_round(
        tuned,
        plan,
        initial=initial,
        max_tokens=job.max_tokens,
        token_budget=job.token_budget,
        # What the plan allows, not what the data has: the trial must not tell of it.
        unit_rows=plan.records_per_person or 1,
        tuned=job.tuned,
    )
    # Not before: what a batch takes is measured by what this process grows.
    keep_freed_memory()
    tell(phase="ready")
    start.wait()
    update = run_round(
        ready,
        examples,
        job.optimizer,
        noise_key=os.urandom(NOISE_KEY_BYTES),
        units=units,
        on_phase=lambda at: tell(phase=at.phase, step=at.step, of=at.of),
        threads=job.threads,
    )
    return update.astype("<f4").tobytes()


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


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, where it can.

    Elsewhere the end of standard input does it (`_watch_standard_input`).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we had asked
        os._exit(1)


def keep_freed_memory() -> None:
    """Have the allocator keep large blocks that are freed, for the next ones.

    By default glibc gives each back to the kernel, which then clears every page of the
    next one anew: a fifth of a step on a CPU. The memory goes back with the process.
    """
    with suppress(AttributeError, OSError):  # another C library: as fast as it is
        tune = ctypes.CDLL(None).mallopt
        tune(_M_MMAP_THRESHOLD, _LARGEST_INT)
        tune(_M_TRIM_THRESHOLD, _LARGEST_INT)


def take_standard_output() -> IO[bytes]:
    """Keep standard output for ourselves; what libraries print goes to standard error."""
    wire = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return wire


def _watch_standard_input(lines: IO[bytes]) -> threading.Event:
    """Set the event when the parent says so; end the process when it is gone."""
    start = threading.Event()

    def watch() -> None:
        for line in lines:
            if line.strip() == START_SAMPLING.encode():
                start.set()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return start


if __name__ == "__main__":
    sys.exit(main())
