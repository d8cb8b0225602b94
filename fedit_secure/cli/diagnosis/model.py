"""The base model, and what tuning does with it, tried in a child process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fedit_secure.cli.diagnosis.checks import Case, Check, Skip, Warn
from fedit_secure.errors import ConfigError, FeditError, TuningFailed
from fedit_secure.federation.base_model import base_model_files
from fedit_secure.silo.jobs import lora_of, optimizer_of
from fedit_secure.tuning.base_model import check_digest, resolve_base_model
from fedit_secure.tuning.trial_job import STEPS, TrialJob

_WORKER = ("-m", "fedit_secure.tuning.trial")


class Trial:
    """The child process; `tell` gives what it says of one step after the other."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def tell(self, case: Case, step: str) -> str | Warn:
        """What was found at a step. Raises its failure, or that of the process."""
        if self._child is None:
            self._child = self._start(case)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line.endswith(b"\n"):
            raise _death(self._child.wait())
        said = json.loads(line)
        if said["step"] != step:
            raise TuningFailed(f"the trial speaks of {said['step']!r}")
        if "error" in said:
            raise _failure(said["error"], said["exit_status"])
        if said["warning"]:
            return Warn(f"{said['found']}; {said['warning']}")
        return str(said["found"])

    def close(self) -> None:
        """End the process, wherever it is."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            assert self._child.stdout is not None
            self._child.stdout.close()

    def _start(self, case: Case) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, *_WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdin is not None
        child.stdin.write(_job(case).model_dump_json().encode() + b"\n")
        child.stdin.close()
        return child


def _job(case: Case) -> TrialJob:
    silo, charter = case.silo, case.charter
    budget = silo.token_budget
    job = TrialJob(
        model=str(case.model_folder),
        token_budget=budget if isinstance(budget, int) else None,
        checkpointing=silo.checkpointing,
        threads=silo.threads,
        processes=silo.torchrun.processes,
        device=silo.device,
        precision=silo.precision,
        quantization=silo.quantization,
    )
    if charter is None:
        return job
    agreed = {
        "max_tokens": charter.max_tokens,
        "lora": lora_of(charter),
        "optimizer": optimizer_of(charter, 1),
        "private": charter.dp.kind != "none",
        "layout": charter.adapter.layout,
        "unit_rows": charter.dp.records_per_person or 1,
    }
    return job.model_copy(update=agreed)


def _failure(sentence: str, status: int) -> FeditError:
    wrong = ConfigError if status == ConfigError.exit_status else TuningFailed
    return wrong(sentence)


def _death(status: int) -> TuningFailed:
    if status == -signal.SIGKILL:
        return TuningFailed("the process was killed: most likely memory ran out")
    return TuningFailed(f"the process ended with status {status}")


def _base_model(case: Case) -> str | Skip:
    folder, charter = _folder(case.silo.model), case.charter
    if folder is None:
        return Skip(f"{case.silo.model} isn't on this machine yet", _FETCH)
    files = base_model_files(folder)
    case.model_folder = folder
    size = sum(file.stat().st_size for file in files)
    said = f"{len(files)} files, {size / 1e6:,.0f} MB"
    if charter is None:
        return f"{said}; no charter says yet which it should be"
    check_digest(folder, charter.base_model.digest)
    return f"{said}, those that the charter names"


def _folder(model: str) -> Path | None:
    """The model's folder; None for a hub name whose files aren't here yet."""
    if Path(model).is_dir() or model.startswith((".", "/")) or model.count("/") != 1:
        return resolve_base_model(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def model_checks(trial: Trial) -> tuple[Check, ...]:
    """The base model's check, and one for each step of the trial."""

    def look(step: str) -> Callable[[Case], str | Warn | Skip]:
        def check(case: Case) -> str | Warn | Skip:
            if step != STEPS[0] and case.silo.torchrun.shard:
                return Skip(
                    "the base model fits into no process whole; a round tries it"
                )
            return trial.tell(case, step)

        return check

    before = ("base-model", *STEPS)
    return (
        Check(
            "base-model",
            _base_model,
            "Copy the base model again from where the coordinator has it.",
            needs=("configuration",),
            reads_model=True,
        ),
        *(
            Check(step, look(step), _FIXES[step], needs=(need,), reads_model=True)
            for step, need in zip(STEPS, before, strict=False)
        ),
    )


_FETCH = "Put its folder here, or have it fetched from the hub before the first round."
_FIXES = {
    "torch": "Install the torch build for this device, or set 'device' to what there is.",
    "model": "Use a causal language model in safetensors that docs/architectures.md "
    "names, with the charter's LoRA targets.",
    "gradients": "Use a base model that docs/architectures.md names: this one can't be "
    "tuned privately.",
    "memory": "Lower token_budget, or set checkpointing: true, precision: bfloat16 or "
    "quantization: nf4.",
    "dry-step": "Run it again with more free memory; if it fails alike, please report it.",
}
