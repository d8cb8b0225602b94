"""The token budget is what free memory has room for, and never more than is fast."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from tiny_models import tuned_model

from fedit_secure.tuning import memory
from fedit_secure.tuning.batches import ROW_TOKENS, Packing
from fedit_secure.tuning.memory import free_bytes, roomy_budget
from fedit_secure.tuning.preflight import fitting_packing
from fedit_secure.tuning.record_gradients import RecordGradients

CPU = torch.device("cpu")


GROWING = """
import numpy as np, torch
from fedit_secure.tuning.memory import peak_bytes

def work():
    for _ in range(3):
        np.ones(8 << 20).sum()  # 64 MiB, given back each time

print(peak_bytes(torch.device("cpu"), work))
"""


def test_a_peak_is_what_was_taken_at_once() -> None:
    """In a process of its own: this one may have kept memory that others gave back."""
    command = [sys.executable, "-c", GROWING]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 60 << 20 < int(done.stdout) < 110 << 20


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    import psutil

    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total


def test_a_limit_on_the_process_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    unlimited = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_bytes(CPU) == 4000 < unlimited
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 4000


@pytest.mark.parametrize(
    ("free", "taken", "budget"),
    [
        (1000, 50, 1000),  # half of what is free has room for ten such batches
        (80, 50, 100),  # less than one: one, which is tried before it's used
        (10**9, 50, memory.MOST_ON_CPU),
        (1000, 0, memory.MOST_ON_CPU),
    ],
)
def test_the_budget_follows_what_one_batch_takes(
    monkeypatch: pytest.MonkeyPatch, free: int, taken: int, budget: int
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: free)
    monkeypatch.setattr(memory, "peak_bytes", lambda _, work: (work(), taken)[1])
    worked: list[int] = []
    assert roomy_budget(CPU, 100, lambda: worked.append(1)) == budget
    assert worked == [1]


def test_processes_of_one_host_share_its_memory_and_no_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: 50)
    assert roomy_budget(CPU, 100, lambda: None, sharers=2) == 500
    assert roomy_budget(torch.device("cuda"), 100, lambda: None, sharers=2) == 1000


def test_both_the_longest_and_the_shortest_records_are_tried() -> None:
    """Many short records have as many tokens, and far more gradients."""
    model = tuned_model()
    seen: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, entered: seen.append(tuple(entered[0].shape))
    )
    packing = fitting_packing(
        model, clip=0.1, selective=True, max_tokens=64, token_budget=512
    )
    assert packing == Packing(512)
    assert seen == [(8, 64), (512 // ROW_TOKENS, ROW_TOKENS)]


def test_records_that_are_all_response_are_tried() -> None:
    """Logits take the most memory: every position but the last predicts a label."""
    model = tuned_model()
    positions: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(
        lambda _module, entered: positions.append(entered[0].shape[:-1].numel())
    )
    fitting_packing(model, clip=0.1, selective=True, max_tokens=64, token_budget=512)
    assert positions == [8 * 63, 512 // ROW_TOKENS * (ROW_TOKENS - 1)]


def test_without_a_number_the_budget_is_found() -> None:
    model = tuned_model()
    packing = fitting_packing(
        model, clip=0.1, selective=True, max_tokens=64, token_budget=None, unit_rows=3
    )
    assert 3 * 64 <= packing.token_budget <= memory.MOST_ON_CPU
    assert packing.unit_rows == 3


def test_rows_that_do_not_fit_halve_the_budget() -> None:
    model = tuned_model()

    def too_many(_: object, entered: tuple[torch.Tensor, ...]) -> None:
        if entered[0].shape[0] > 10:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(too_many)
    packing = fitting_packing(
        model, clip=0.1, selective=True, max_tokens=64, token_budget=512
    )
    assert packing.token_budget == 128
    assert packing.rows(2) <= 10


def test_the_gradients_of_many_records_are_tried_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clip every record has a row, and those take memory too."""
    plain = RecordGradients.rows

    def too_many(self: RecordGradients, loss: torch.Tensor, rows: int) -> list[Any]:
        if rows > 10:
            raise torch.OutOfMemoryError
        return plain(self, loss, rows)

    monkeypatch.setattr(RecordGradients, "rows", too_many)
    packing = fitting_packing(
        tuned_model(), clip=0.1, selective=True, max_tokens=64, token_budget=512
    )
    assert packing.token_budget == 128
