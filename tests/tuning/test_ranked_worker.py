"""A job under torchrun: one update, one charge before all, and one sentence if it fails."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from test_worker import make_job, tune
from tiny_models import make_plan
from watched_ranks import KEY

from fedit_secure.config import Torchrun
from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.silo import tuner
from fedit_secure.silo.tuner import torchrun_command, tune_in_child
from fedit_secure.tuning import worker
from fedit_secure.tuning.job import (
    DataSource,
    HeldOutSource,
    OwnFigure,
    Progress,
    TuneJob,
)

TWO = Torchrun(processes=2)


@pytest.fixture
def python_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children find the modules beside this one."""
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, here)))


def in_own_folder(job_files: SimpleNamespace, folder: Path, **changes: Any) -> TuneJob:
    """A job of two processes, whose state lies in a folder of its own."""
    state = folder / "state.safetensors"
    state.write_bytes(job_files.state.read_bytes())
    options = {"torchrun": TWO, "state_path": str(state), "token_budget": 256}
    return make_job(job_files, **(options | changes))


def family() -> list[psutil.Process]:
    """torchrun, and the processes that it started."""
    return psutil.Process().children(recursive=True)


def number_of(process: psutil.Process) -> str | None:
    """Which of the job's processes it is."""
    return process.environ().get("RANK")


async def test_two_processes_make_the_update_of_one_and_none_samples_uncharged(
    job_files, tmp_path, python_path, monkeypatch
) -> None:
    before = family()  # of other tests: a pool's resource tracker lives as long as we
    notes = tmp_path / "notes"
    notes.mkdir()
    ranked = ("-m", "watched_ranks", str(notes))
    monkeypatch.setattr(tuner, "_RANKED", ranked)
    evaluation = {"clip": 10.0, "noise_multiplier": 2.0, "expected": 5}
    held_out = HeldOutSource(fraction=0.4)  # which the first of them scores
    job = in_own_folder(
        job_files,
        tmp_path,
        kept=("B",),
        data=DataSource(path=str(job_files.data), held_out=held_out),
        plan=make_plan(local_steps=2).as_dict() | {"evaluation": evaluation},
    )
    told: list[Progress] = []
    figures: list[OwnFigure] = []
    charged: list[int] = []
    stays: list[np.ndarray] = []

    async def keep(values: np.ndarray) -> None:
        stays.append(values)

    async def charge() -> None:
        started = set(family()) - set(before)
        assert {"0", "1"} <= {number_of(process) for process in started}
        for process in started:
            said = [*process.cmdline(), *process.environ().values()]
            assert not any(str(job_files.data) in text for text in said)
            open_to = [c.laddr.ip for c in process.net_connections() if c.laddr]
            assert all(ip in ("127.0.0.1", "::1") for ip in open_to)
        await asyncio.sleep(1)
        assert not list(notes.iterdir())
        charged.append(time.monotonic_ns())

    update = await tune_in_child(
        job, told.append, before_sampling=charge, on_figure=figures.append, keep=keep
    )
    begun = {note.name: int(note.read_text()) for note in notes.iterdir()}
    assert begun.keys() == {"0", "1"}
    assert all(at > charged[0] for at in begun.values())
    monkeypatch.setattr(worker, "os", SimpleNamespace(urandom=lambda _: KEY))
    expected, phases = tune(job)
    assert np.array_equal(np.concatenate([update, *stays]), expected)
    assert len(update) + job.kept_length == job.length + 1
    (own,) = (said for said in phases if said["phase"] == "evaluated")
    assert [{"phase": "evaluated", **asdict(figure)} for figure in figures] == [own]
    assert figures[0].units > 0
    assert [(at.phase, at.step) for at in told] == [
        (said["phase"], said.get("step", 0)) for said in phases if said != own
    ]
    assert not (tmp_path / "processes").exists()
    assert set(family()) <= set(before)


@pytest.mark.slow
async def test_a_process_that_is_killed_fails_the_job_in_one_sentence(
    job_files, tmp_path
) -> None:
    """In the middle of a pass, with the base model split over both of them."""
    plan = make_plan(local_steps=100_000).as_dict()
    both = Torchrun(processes=2, shard=True)
    job = in_own_folder(job_files, tmp_path, plan=plan, torchrun=both)
    seen: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if progress.step == 1:
            seen.extend(family())
            (second,) = [p for p in seen if number_of(p) == "1"]
            second.send_signal(signal.SIGKILL)

    with pytest.raises(TuningFailed) as caught:
        await tune_in_child(job, kill)
    assert str(caught.value) == "process 1 of the 2 that tune ended early"
    assert len(seen) >= 3
    _, left = psutil.wait_procs(seen, timeout=60)
    assert not left


@pytest.mark.slow
async def test_what_one_process_lacks_is_told_before_the_charge(
    job_files, tmp_path
) -> None:
    """Both read the same file here, so both lack it; 0 finds it first, or hears of it."""

    async def charge() -> None:
        raise AssertionError("charged")

    source = DataSource(path=str(tmp_path / "nowhere.jsonl"))
    job = in_own_folder(job_files, tmp_path, data=source)
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: no such file"):
        await tune_in_child(job, before_sampling=charge)


@pytest.mark.slow
def test_processes_that_never_meet_are_told_of(job_files, tmp_path) -> None:
    """One of two; the other one's host is down."""
    meet = ("--meet", str(tmp_path / "ranks"), "--processes", "2", "--patience", "2")
    with subprocess.Popen(
        [sys.executable, "-m", "fedit_secure.tuning.ranked_worker", *meet],
        env=os.environ | {"LOCAL_RANK": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(make_job(job_files).to_json().encode() + b"\n")
        child.stdin.flush()
        said = child.stdout.read()
        assert child.wait() == TuningFailed.exit_status
    assert json.loads(said)["error"] == (
        "the processes that tune together didn't meet within 2 s, or couldn't"
    )


@pytest.mark.slow
async def test_two_hosts_make_the_update_of_one(
    job_files, tmp_path, python_path, monkeypatch
) -> None:
    """The second one is started by hand, with the command of the operator's guide."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    notes = tmp_path / "notes"
    notes.mkdir()
    ranked = ("-m", "watched_ranks", str(notes))
    monkeypatch.setattr(tuner, "_RANKED", ranked)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    run = Torchrun(hosts=2, endpoint=f"127.0.0.1:{port}")
    job = in_own_folder(job_files, tmp_path, torchrun=run)
    page = Path(__file__).parents[2] / "docs" / "operator.md"
    (line,) = re.findall(r"^torchrun .*$", page.read_text("utf-8"), re.MULTILINE)
    for said, here in (
        ("--nproc-per-node 8", "--nproc-per-node 1"),
        ("10.7.0.1", "127.0.0.1"),
        ("29400", str(port)),
    ):
        assert said in line
        line = line.replace(said, here)
    command = [sys.executable, "-m", "torch.distributed.run", *line.split()[1:]]
    other = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL)
    try:
        update = await tune_in_child(job)
        assert await asyncio.wait_for(other.wait(), 120) == 0
    finally:
        if other.returncode is None:
            other.kill()
    monkeypatch.setattr(worker, "os", SimpleNamespace(urandom=lambda _: KEY))
    assert np.array_equal(update, tune(job)[0])


def test_several_hosts_meet_at_the_endpoint_and_pass_no_file() -> None:
    run = Torchrun(
        processes=8, hosts=2, endpoint="[fd00::1]:29400", patience_seconds=60
    )
    command = torchrun_command(run, Path("unused"))
    start = command.index("torch.distributed.run") + 1
    options = dict(zip(command[start::2], command[start + 1 :: 2], strict=True))
    assert options["--nproc-per-node"] == "8"
    assert (options["--nnodes"], options["--node-rank"]) == ("2", "0")
    assert (options["--master-addr"], options["--master-port"]) == ("fd00::1", "29400")
    assert options["--log-dir"] == "/dev/null"
    assert options["-m"] == "fedit_secure.tuning.ranked_worker"
    assert options["--patience"] == "60"
    assert not any("unused" in part for part in command)
