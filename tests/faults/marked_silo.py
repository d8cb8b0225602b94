"""`fedit silo serve` whose tuning is a draw, written down before it is made.

    SOAK_MARKS=FILE python marked_silo.py silo serve CONFIG

Everything but the tuning is the daemon's own. A line of FILE is a round and the seed of
what was drawn for it, so that anybody can draw it again, and count what was sampled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.cli.main import main
from fedit_secure.federation.lifetimes import utc_now
from fedit_secure.silo import serve
from fedit_secure.silo.daemon import SiloDaemon
from fedit_secure.tuning.job import TuneJob

NOISE = 1e-3
MARKS = os.environ.get("SOAK_MARKS", "")
tuning = [0]


def drawn_by(seed: int, length: int) -> NDArray[np.float32]:
    """The update that a seed stands for."""
    draw = np.random.default_rng(seed).normal(0, NOISE, length)
    return draw.astype(np.float32)


async def drawn(
    job: TuneJob,
    on_phase: Any = None,
    *,
    before_sampling: Callable[[], Awaitable[None]],
    **_: Any,
) -> NDArray[np.float32]:
    """In the place of `tune_in_child`."""
    await before_sampling()
    seed = int.from_bytes(os.urandom(6), "big")
    marks = os.open(MARKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(marks, f"{tuning[0]} {seed}\n".encode())
    os.close(marks)
    return drawn_by(seed, job.update_length)


class Daemon(SiloDaemon):
    """Says which round it tunes."""

    async def _tune_round(self, now: int) -> None:
        tuning[0] = now
        await super()._tune_round(now)


def wrong_clock() -> None:
    """With SOAK_CLOCK_DAYS, the clock by which SOAK_CLOCK_OF issues its leaf is off."""
    days = timedelta(days=int(os.environ.get("SOAK_CLOCK_DAYS") or 0))
    if not days or os.environ.get("SOAK_CLOCK_OF", "") not in " ".join(sys.argv):
        return
    serve.PATIENCE_SECONDS = 5.0  # a silo goes on dialling: clocks may be set
    right = serve.Dialling
    serve.Dialling = partial(right, clock=lambda: utc_now() + days)  # type: ignore[misc]


def mark() -> None:
    """From here on `fedit silo serve` draws its updates, in this process."""
    serve.tune_in_child = drawn  # type: ignore[assignment]
    serve.SiloDaemon = Daemon  # type: ignore[misc]


if __name__ == "__main__":
    wrong_clock()
    mark()
    sys.exit(main(sys.argv[1:]))
