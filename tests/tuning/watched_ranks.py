"""`-m watched_ranks NOTES …`: `ranked_worker`, watched, under a noise key that is known.

Each process writes into the folder NOTES when it first works on a record, or draws one:
`time.monotonic_ns()`, a clock that all processes of a machine share.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist

from fedit_secure.tuning import dealing, local_round, ranked_worker

KEY = bytes(range(32))


def watch(notes: Path) -> None:
    """From now on."""

    def noted(function: Any) -> Any:
        def run(*given: Any, **options: Any) -> Any:
            note = notes / str(dist.get_rank())
            if not note.exists():
                note.write_text(str(time.monotonic_ns()), encoding="ascii")
            return function(*given, **options)

        return run

    class Watched(dealing.BatchGradient):
        """Of the real records: the synthetic ones have another."""

        sum = noted(dealing.BatchGradient.sum)

    dealing.BatchGradient = local_round.BatchGradient = Watched
    local_round.poisson_units = noted(local_round.poisson_units)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    ranked_worker.os = SimpleNamespace(getppid=os.getppid, urandom=lambda _: KEY)
    sys.exit(ranked_worker.main(sys.argv[2:]))
