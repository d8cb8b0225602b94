"""The trial of this machine: a process that tries all of tuning but records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.tuning import preflight
from fedit_secure.tuning.base_model import check_devices
from fedit_secure.tuning.batches import Packing
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.trial import tried
from fedit_secure.tuning.trial_job import STEPS, TrialJob

ONE = LoraConfig(rank=2, targets=("layers.3.mlp.down_proj",))
JOB = TrialJob(model=str(base_model_path()), lora=ONE, token_budget=64, max_tokens=64)


def run(job: str, folder: Path) -> tuple[list[dict[str, Any]], int]:
    done = subprocess.run(
        [sys.executable, "-m", "fedit_secure.tuning.trial"],
        input=job + "\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def test_every_step_is_tried_and_says_what_it_found() -> None:
    told = list(tried(JOB))
    assert len(told) == len(STEPS)
    assert all(found and warning is None for found, warning in told)
    assert "an adapter of 960" in told[STEPS.index("model")][0]


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such device": (
        {"device": "cuda"}, "torch", "device: cuda, but torch finds no CUDA"),
    "no such target": (
        {"lora": LoraConfig(targets=("wq",))}, "model", "LoRA doesn't fit the base model"),
    "an output head": (
        {"lora": LoraConfig(targets=("lm_head",))}, "model", "output head can't be tuned"),
    "another layout": (
        {"layout": (("x.lora_A.weight", (2, 3)),)}, "model", "where the base model has"),
    "too long": ({"max_tokens": 1 << 20, "layout": (("x", (1,)),)}, "model", "positions"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_the_first_failure_is_named_and_nothing_after_it_is_tried(case) -> None:
    change, step, sentence = FAILURES[case]
    if change.get("device") and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    trial = tried(JOB.model_copy(update=change))
    for _ in STEPS[: STEPS.index(step)]:
        next(trial)
    with pytest.raises(ConfigError, match=sentence):
        next(trial)


def test_more_tokens_than_memory_has_room_for_are_told(monkeypatch) -> None:
    monkeypatch.setattr(preflight, "fitting_packing", lambda *_, **__: Packing(32))
    told = list(tried(JOB))
    assert told[STEPS.index("memory")] == (
        told[STEPS.index("memory")][0],
        "token_budget is 64, for which the memory is too small",
    )


def test_the_process_says_what_failed_and_ends_with_its_status(tmp_path: Path) -> None:
    job = JOB.model_copy(update={"model": str(tmp_path)})
    said, status = run(job.model_dump_json(), tmp_path)
    assert [line["step"] for line in said] == ["torch", "model"]
    assert "tokenizer can't be loaded" in said[-1]["error"]
    assert (said[-1]["exit_status"], status) == (4, 4)


def test_a_job_that_is_none(tmp_path: Path) -> None:
    said, status = run('{"model": "x", "records": "y"}', tmp_path)
    assert said == [
        {
            "step": "torch",
            "error": "trial job: the field 'records' is unknown",
            "exit_status": 4,
        }
    ]
    assert status == 4


@pytest.mark.parametrize(
    ("device", "processes", "there", "refused"),
    [
        ("cuda", 4, 3, True),
        ("auto", 4, 3, True),
        ("auto", 4, 4, False),
        ("auto", 4, 0, False),
        ("cpu", 4, 3, False),
        ("cuda", 1, 1, False),
    ],
)
def test_each_process_of_a_job_has_a_device(
    monkeypatch, device, processes, there, refused
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    if not refused:
        check_devices(device, processes)
        return
    with pytest.raises(ConfigError, match="processes is 4, but this host has 3 CUDA"):
        check_devices(device, processes)
