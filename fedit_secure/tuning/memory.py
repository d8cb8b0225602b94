"""How many tokens of a physical batch the free memory has room for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch

MOST_ON_CPU = 2048
MOST_ON_CUDA = 65_536
"""More tokens don't make a step faster: on a CPU they overrun its caches."""

_SHARE = 0.5  # of what is free: allocators keep more than they are asked for
_CGROUP = Path("/sys/fs/cgroup")


def roomy_budget(
    device: torch.device, tokens: int, work: Callable[[], object], sharers: int = 1
) -> int:
    """The token budget for `device`, from what one batch of `tokens` tokens takes.

    Args:
        device: where the model is.
        tokens: of the batch that `work` passes through the model, padding included.
        work: one pass, with everything that a step keeps of it.
        sharers: processes that tune on this host at once. They share its memory, and no
            device's.
    """
    most = MOST_ON_CPU if device.type == "cpu" else MOST_ON_CUDA
    free = free_bytes(device) // (sharers if device.type == "cpu" else 1)
    taken = peak_bytes(device, work)
    return max(tokens, min(most, int(_SHARE * free * tokens / max(taken, 1))))


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on `device`, within this process's own limits."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(kept)
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no such limit
        limit = int((_CGROUP / "memory.max").read_text())
        free = min(free, limit - int((_CGROUP / "memory.current").read_text()))
    return max(0, free)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """The most memory that `work` takes on `device` at any time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    process, ended = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        work()
    finally:
        ended.set()
        watching.join()
    return max(highest, process.memory_info().rss) - before
