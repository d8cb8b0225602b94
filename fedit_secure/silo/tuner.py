"""Run one tuning job in a child process of the daemon; no torch in this one.

The child's memory is its own: what kills it there fails one job, not the daemon.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fedit_secure.config import Torchrun
from fedit_secure.errors import ConfigError, FeditError, TuningFailed
from fedit_secure.tuning.job import OnFigure, OnProgress, OwnFigure, Progress, TuneJob

_LINE_LIMIT = 1 << 20
_WORKER = ("-m", "fedit_secure.tuning.worker")
_RANKED = ("-m", "fedit_secure.tuning.ranked_worker")
Keep = Callable[[npt.NDArray[np.float32]], Awaitable[None]]


async def tune_in_child(
    job: TuneJob,
    on_phase: OnProgress | None = None,
    *,
    before_sampling: Callable[[], Awaitable[None]] | None = None,
    keep: Keep | None = None,
    on_figure: OnFigure = lambda figure: None,
    errors: IO[bytes] | int = DEVNULL,
    worker: Sequence[str] | None = None,
) -> npt.NDArray[np.float32]:
    """The update of `job`, tuned in a process that ends with it, or with us.

    Or in several, which torchrun starts: it is then the child, and of its processes the
    first is the one that we talk to.

    Call it on the main thread's event loop: the kernel ends the child with the thread
    that started it.

    Args:
        job: what to tune.
        on_phase: told of every phase that the child reports.
        before_sampling: awaited when the child has loaded everything and passed all
            checks, and before it draws its first record: the place to write the
            charge to the ledger. A job that fails earlier costs nothing.
        keep: awaited with what the silo keeps, float32 of shape (job.kept_length,),
            before the update is returned. A job with `kept` needs it.
        on_figure: told what the held-out units say of the state that the job starts from,
            without noise: for the silo alone.
        errors: where the child's standard error goes. It may quote records.
        worker: what Python runs in the child, by default the worker. An audit watches it
            from inside, by a module of its own that runs the worker.

    Returns:
        float32, shape (job.update_length,), ordered as `job.layout`: what is released.

    Raises:
        ConfigError: the child named a wrong file, field or option.
        TuningFailed: the child ended without a whole update.
    """
    with _command(job, worker) as command:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=errors, limit=_LINE_LIMIT
        )
        try:
            update = await _converse(child, job, on_phase, before_sampling, on_figure)
            if job.kept:
                assert keep is not None
                await keep(await _read_kept(child, job.kept_length))
            return update
        finally:
            # Also when we are cancelled: nothing goes on tuning behind our back.
            if child.returncode is None:
                child.kill()
            await child.wait()


@contextmanager
def _command(job: TuneJob, worker: Sequence[str] | None) -> Iterator[tuple[str, ...]]:
    """What is started for `job`, while there is what it needs."""
    if worker is not None or job.torchrun.ranks == 1:
        yield (sys.executable, *(worker or _WORKER))
        return
    # Beside the job's state, in a folder that is this account's alone.
    folder = Path(job.state_path).absolute().parent / "processes"
    shutil.rmtree(folder, ignore_errors=True)  # of a daemon that was killed
    folder.mkdir(mode=0o700)
    try:
        yield torchrun_command(job.torchrun, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def torchrun_command(run: Torchrun, folder: Path) -> tuple[str, ...]:
    """How torchrun starts the processes of a job on this host.

    They inherit our pipes, of which the first one of them makes use. Nothing secret is
    in the command or in the environment.

    Args:
        run: how many processes there are, and where.
        folder: private to this account; processes on one host meet at files in it.
    """
    python = [sys.executable, "-m", "torch.distributed.run"]
    # Without a folder for logs: what is said on standard error may quote records.
    common = ["--nproc-per-node", str(run.processes), "--log-dir", os.devnull]
    patience = ["--patience", str(run.patience_seconds)]
    # By `env`, so that the rest of our environment stays as it is. The first process is
    # to end by itself, having said why.
    settings = ["env", f"TORCH_ELASTIC_SHUTDOWN_TIMEOUT={run.patience_seconds}"]
    if run.endpoint is not None:
        host, _, port = run.endpoint.rpartition(":")
        nodes = ["--nnodes", str(run.hosts), "--node-rank", "0"]
        endpoint = ["--master-addr", host.strip("[]"), "--master-port", port]
        return (*settings, *python, *common, *nodes, *endpoint, *_RANKED, *patience)
    # Nobody outside of this host can connect to any of them.
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    settings += [f"{kind}_SOCKET_IFNAME={loopback}" for kind in ("GLOO", "NCCL")]
    settings += ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
    agent = ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(folder / "torchrun")]
    agent += ["--rdzv-conf", "store_type=file", "--local-addr", "127.0.0.1"]
    meet = ["--meet", str(folder / "ranks"), "--processes", str(run.processes)]
    return (*settings, *python, *common, *agent, *_RANKED, *meet, *patience)


async def _converse(
    child: Process,
    job: TuneJob,
    on_phase: OnProgress | None,
    before_sampling: Callable[[], Awaitable[None]] | None,
    on_figure: OnFigure,
) -> npt.NDArray[np.float32]:
    await _send(child, job.to_json())
    while True:
        said = await _read_line(child)
        phase = said.get("phase")
        if phase == "failed":
            raise _failure(said)
        if phase == "done":
            return await _read_update(child, said, job.update_length)
        if phase == "evaluated":
            on_figure(OwnFigure(said["nll"], said["units"], said["unscored"]))
            continue
        if on_phase is not None:
            on_phase(Progress(str(phase), said.get("step", 0), said.get("of", 0)))
        if phase == "ready":
            if before_sampling is not None:
                await before_sampling()
            await _send(child, "sample")


async def _read_kept(child: Process, length: int) -> npt.NDArray[np.float32]:
    said = await _read_line(child)
    if said.get("phase") != "kept":
        raise TuningFailed("the tuning worker didn't yield what the silo keeps")
    return await _read_update(child, said, length)


async def _send(child: Process, line: str) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(line.encode() + b"\n")
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        raise await _death(child) from None


async def _read_line(child: Process) -> dict[str, Any]:
    assert child.stdout is not None
    line = await child.stdout.readline()
    if not line.endswith(b"\n"):
        raise await _death(child)
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        raise TuningFailed("the tuning worker said what isn't JSON") from None
    return said


async def _read_update(
    child: Process, said: dict[str, Any], length: int
) -> npt.NDArray[np.float32]:
    if said["length"] != length:
        raise TuningFailed(
            f"the tuning worker's update has {said['length']} coordinates instead of "
            f"{length}"
        )
    assert child.stdout is not None
    try:
        content = await child.stdout.readexactly(4 * length)
    except asyncio.IncompleteReadError:
        raise await _death(child) from None
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise TuningFailed("the tuning worker's update was damaged on its way")
    update = np.frombuffer(content, "<f4").astype(np.float32)
    if not np.isfinite(update).all():
        raise TuningFailed("the tuning worker's update has a value that isn't finite")
    return update


def _failure(said: dict[str, Any]) -> FeditError:
    if said["exit_status"] == ConfigError.exit_status:
        return ConfigError(said["error"])
    return TuningFailed(said["error"])


async def _death(child: Process) -> TuningFailed:
    status = await child.wait()
    if status < 0:
        return TuningFailed(f"the tuning worker was killed by signal {-status}")
    return TuningFailed(f"the tuning worker ended early with status {status}")
