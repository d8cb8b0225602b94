"""`fedit silo serve` whose update is drawn and not tuned: everything after it is real."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.cli.main import main
from fedit_secure.silo import serve
from fedit_secure.tuning.job import TuneJob


async def drawn(
    job: TuneJob,
    on_phase: Any = None,
    *,
    before_sampling: Callable[[], Awaitable[None]],
    **_: Any,
) -> NDArray[np.float32]:
    """What `tune_in_child` would return, of the right length, after the charge."""
    await before_sampling()
    return np.random.default_rng().normal(0, 1e-3, job.update_length).astype(np.float32)


if __name__ == "__main__":
    serve.tune_in_child = drawn  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
