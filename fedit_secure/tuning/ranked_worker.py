"""One of several processes of a tuning job: `torchrun … -m fedit_secure.tuning.ranked_worker`.

Process 0 is to the daemon what `worker` is, on the same standard input and output: the
job comes to it, and it alone hears when the charge is on the ledger, draws coins and
noise, and says how it goes. It passes the job and the adapter on to the others. They load
and check the same, say so, and do their share of every sum (`dealing`).

If one of them fails or ends, the job fails: 0 says why, and torchrun ends the rest.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fedit_secure.errors import FeditError, TuningFailed
from fedit_secure.tuning.agreement import settle
from fedit_secure.tuning.base_model import check_devices
from fedit_secure.tuning.dealing import Dealer, help_round
from fedit_secure.tuning.dp_step import out_of_memory
from fedit_secure.tuning.held_out import evaluate
from fedit_secure.tuning.job import TuneJob
from fedit_secure.tuning.job_loading import load_job, read_state
from fedit_secure.tuning.kept_part import Tuned
from fedit_secure.tuning.local_round import run_round
from fedit_secure.tuning.ranks import Kind, Ranks
from fedit_secure.tuning.worker import (
    NOISE_KEY_BYTES,
    converse,
    die_with_parent,
    keep_freed_memory,
    parted,
    take_standard_output,
)

DEFAULT_PATIENCE = 1800.0
_MOST_SECONDS_BETWEEN_BEATS = 5.0
_SECONDS_TO_BE_HEARD = 5.0


def main(arguments: Sequence[str]) -> int:
    """This process's part; the exit status says how it went."""
    die_with_parent(os.getppid())
    wire = take_standard_output()
    options = _parse(arguments)
    try:
        ranks = join(options.meet, options.processes, options.patience)
    except RuntimeError:  # torch's: a time that is over, a port that is taken
        if dist.get_node_local_rank():
            return TuningFailed.exit_status
        return converse(wire, partial(_alone, options.patience))
    if ranks.number:
        wire.close()  # the daemon's, and 0 alone writes to it
        return help_out(ranks)
    # When another process ends, torchrun asks this one to end too. It has to say first
    # who that was, and does so as soon as it needs that process.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return converse(wire, partial(lead, ranks, options.patience))


def join(meet: Path | None, processes: int, patience: float) -> Ranks:
    """Meet the other processes: at a file on this host, or where torchrun says."""
    timeout = timedelta(seconds=patience)
    # NCCL carries a sharded base's weights between CUDA devices; the rest is gloo's.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if meet is None:
        dist.init_process_group(backend, timeout=timeout)
        return Ranks(patience)
    dist.init_process_group(
        backend,
        init_method=meet.absolute().as_uri(),
        # On one host it's the number among all.
        rank=dist.get_node_local_rank(),
        world_size=processes,
        timeout=timeout,
    )
    return Ranks(patience)


def lead(
    ranks: Ranks, patience: float, job: TuneJob, tell: Any, start: threading.Event
) -> Tuned:
    """As `worker.tune`, with the help of all other processes."""
    tell(phase="loading")
    try:
        return _led(ranks, patience, job, tell, start)
    except Exception as failure:
        cause = failure if isinstance(failure, RuntimeError) else failure.__cause__
        if job.torchrun.shard and cause is not None and not out_of_memory(cause):
            # Another process's end breaks the pass that this one was in with it.
            ranks.blame()
        raise


def _led(
    ranks: Ranks, patience: float, job: TuneJob, tell: Any, start: threading.Event
) -> Tuned:
    initial = read_state(Path(job.state_path), job.length)
    ranks.send(ranks.others, Kind.JOB, job.to_json().encode())
    ranks.send(ranks.others, Kind.STATE, initial)
    _take_own_device(job)
    loaded = load_job(job, initial, ranks.meet)
    examples, units = loaded.examples, loaded.units
    ready = settle(ranks, loaded.ready, examples, units, job.max_tokens)
    keep_freed_memory()
    tell(phase="ready")
    # The charge may take as long as it likes. Each side learns whether the other is there.
    beat = min(_MOST_SECONDS_BETWEEN_BEATS, patience / 4)
    wait = partial(ranks.send, ranks.others, Kind.WAIT)
    while not start.wait(beat):
        wait()
    # By this process alone, on its whole model: the others go on waiting.
    figure = evaluate(
        ready,
        loaded.held_out,
        loaded.evaluation,
        noise_key=os.urandom(NOISE_KEY_BYTES),
        on_figure=lambda own: tell(phase="evaluated", **asdict(own)),
        on_batch=wait,
    )
    change = run_round(
        ready,
        examples,
        job.optimizer,
        noise_key=os.urandom(NOISE_KEY_BYTES),
        units=units,
        on_phase=lambda at: tell(phase=at.phase, step=at.step, of=at.of),
        threads=job.threads,
        deal=lambda gradients: Dealer(ranks, ready, gradients).sum,
    )
    ranks.send(ranks.others, Kind.END)
    return parted(job, ready.initial, change, figure)


def help_out(ranks: Ranks) -> int:
    """What every process but 0 does: take the job, load it, and do a share of it."""
    shard = False
    try:
        said = ranks.receive(0, Kind.JOB)[1]
        job = TuneJob.from_json(said.numpy().tobytes())
        shard = job.torchrun.shard
        like = torch.empty(job.length, dtype=torch.float32)
        initial = ranks.array(0, Kind.STATE, like).numpy()
        _take_own_device(job)
        loaded = load_job(job, initial, ranks.meet)
        examples, units = loaded.examples, loaded.units
        ready = settle(ranks, loaded.ready, examples, units, job.max_tokens)
        keep_freed_memory()
        help_round(ready, examples, units, ranks)
    # Whatever it was: 0 tells the daemon.
    except Exception as failure:
        # 0 may be waiting for this one in the middle of a sharded pass, and not hear it:
        # then its end tells.
        ranks.tell_failure(failure, within=_SECONDS_TO_BE_HEARD if shard else None)
        if not shard:
            ranks.await_end()
        if isinstance(failure, FeditError):
            return failure.exit_status
        raise
    return 0


def _alone(patience: float, *_: object) -> Tuned:
    raise TuningFailed(
        f"the processes that tune together didn't meet within {patience:g} s, or couldn't"
    )


def _take_own_device(job: TuneJob) -> None:
    """Of a host's CUDA devices, each of its processes has one. Raises ConfigError."""
    check_devices(job.device, job.torchrun.processes)
    if job.device == "cpu" or not torch.cuda.is_available():
        return
    torch.cuda.set_device(dist.get_node_local_rank())


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fedit_secure.tuning.ranked_worker")
    parser.add_argument("--meet", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--patience", type=float, default=DEFAULT_PATIENCE)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
