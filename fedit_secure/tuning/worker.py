"""The child process of one tuning job: `python -m fedit_secure.tuning.worker`.

On standard input: one line of JSON, the `TuneJob`; later one line, `sample`, which the
parent writes once the job's privacy cost is on its ledger. On standard output: lines of
JSON, and after the last one the update, and what the silo keeps for itself:

    {"phase": "loading"}                         the model and the records
    {"phase": "ready"}                           all checks passed, nothing sampled yet
    {"phase": "evaluated", "nll": 2.1, "units": 40, "unscored": 0}   where some are held out
    {"phase": "tuning", "step": 1, "of": 6}      once a step
    {"phase": "done", "length": d, "sha256": h}  then d float32 values, little-endian
    {"phase": "kept", "length": k, "sha256": h}  if there is some, then k such values
    {"phase": "failed", "error": sentence, "exit_status": n}

Nothing else leaves: no loss of what is tuned on, no norm, no size of a batch. The figure of
the held-out units is for the silo itself (`held_out`); noised, it may be the update's last
value. The noise keys are drawn here and die here. The process ends with its parent,
whichever way that one ends.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from fedit_secure.errors import FeditError, TuningFailed
from fedit_secure.federation.aggregation import BOTH
from fedit_secure.tuning.job import TuneJob
from fedit_secure.tuning.kept_part import FloatVector, Tuned, divide

NOISE_KEY_BYTES = 32
START_SAMPLING = "sample"
Tune = Callable[[TuneJob, Any, threading.Event], Tuned]
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_INT = 2**31 - 1


def main() -> int:
    """Run the job that standard input describes; the exit status says how it went."""
    die_with_parent(os.getppid())
    return converse(take_standard_output(), tune)


def converse(wire: IO[bytes], tune: Tune) -> int:
    """Take a job from standard input, `tune` it, and say on `wire` how it goes."""
    # Unbuffered: a buffer's lock, held by the watching thread, would abort our exit.
    lines = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
    job_line = lines.readline()
    start = _watch_standard_input(lines)

    def tell(**fields: object) -> None:
        wire.write(json.dumps(fields).encode() + b"\n")
        wire.flush()

    try:
        tuned = tune(TuneJob.from_json(job_line), tell, start)
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
    for phase, values in (("done", tuned.update), ("kept", tuned.kept)):
        if phase == "done" or values.size:
            content = values.astype("<f4").tobytes()
            digest = hashlib.sha256(content).hexdigest()
            tell(phase=phase, length=values.size, sha256=digest)
            wire.write(content)
            wire.flush()
    return 0


def tune(job: TuneJob, tell: Any, start: threading.Event) -> Tuned:
    """What `job` yields."""
    tell(phase="loading")
    from fedit_secure.tuning.job_loading import load_job

    loaded = load_job(job)
    from fedit_secure.tuning.held_out import evaluate
    from fedit_secure.tuning.local_round import run_round

    # Not before: what a batch takes is measured by what this process grows.
    keep_freed_memory()
    tell(phase="ready")
    start.wait()
    figure = evaluate(
        loaded.ready,
        loaded.held_out,
        loaded.evaluation,
        noise_key=os.urandom(NOISE_KEY_BYTES),
        on_figure=lambda own: tell(phase="evaluated", **asdict(own)),
    )
    change = run_round(
        loaded.ready,
        loaded.examples,
        job.optimizer,
        noise_key=os.urandom(NOISE_KEY_BYTES),
        units=loaded.units,
        on_phase=lambda at: tell(phase=at.phase, step=at.step, of=at.of),
        threads=job.threads,
    )
    return parted(job, loaded.ready.initial, change, figure)


def parted(
    job: TuneJob, initial: FloatVector, change: FloatVector, figure: FloatVector
) -> Tuned:
    """By how much the job's round changed what it tunes, in its two parts.

    Both vectors are float32, of what the round tunes; `initial` is where it began.
    `figure` (`held_out.evaluate`) is released with the one part.
    """
    parts = divide(job.layout, job.tuned or BOTH, job.kept, initial, change)
    return parts.with_figure(figure)


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
