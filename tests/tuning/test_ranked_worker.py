"""A job under torchrun: one update, one charge before all, and one sentence if it fails."""

from __future__ import annotations

import asyncio
import os
import signal
import time
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
from fedit_secure.tuning.job import DataSource, Progress, TuneJob

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
    notes = tmp_path / "notes"
    notes.mkdir()
    ranked = ("-m", "watched_ranks", str(notes))
    monkeypatch.setattr(tuner, "_RANKED", ranked)
    job = in_own_folder(job_files, tmp_path)
    told: list[Progress] = []
    charged: list[int] = []

    async def charge() -> None:
        numbers = [number_of(process) for process in family()]
        assert {"0", "1"} <= set(numbers)
        for process in family():
            said = [*process.cmdline(), *process.environ().values()]
            assert not any(str(job_files.data) in text for text in said)
            open_to = [c.laddr.ip for c in process.net_connections() if c.laddr]
            assert all(ip in ("127.0.0.1", "::1") for ip in open_to)
        await asyncio.sleep(1)
        assert not list(notes.iterdir())
        charged.append(time.monotonic_ns())

    update = await tune_in_child(job, told.append, before_sampling=charge)
    begun = {note.name: int(note.read_text()) for note in notes.iterdir()}
    assert begun.keys() == {"0", "1"}
    assert all(at > charged[0] for at in begun.values())
    monkeypatch.setattr(worker, "os", SimpleNamespace(urandom=lambda _: KEY))
    expected, phases = tune(job)
    assert np.array_equal(update, expected)
    assert [(at.phase, at.step) for at in told] == [
        (said["phase"], said.get("step", 0)) for said in phases
    ]
    assert not (tmp_path / "processes").exists()
    assert not family()


async def test_a_process_that_is_killed_fails_the_job_in_one_sentence(
    job_files, tmp_path
) -> None:
    plan = make_plan(local_steps=100_000).as_dict()
    job = in_own_folder(job_files, tmp_path, plan=plan)
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


def test_several_hosts_meet_at_the_endpoint_and_pass_no_file() -> None:
    run = Torchrun(
        processes=8, hosts=2, endpoint="[fd00::1]:29400", patience_seconds=60
    )
    command = torchrun_command(run, Path("unused"))
    options = dict(zip(command[3::2], command[4::2], strict=False))
    assert options["--nproc-per-node"] == "8"
    assert (options["--nnodes"], options["--node-rank"]) == ("2", "0")
    assert (options["--master-addr"], options["--master-port"]) == ("fd00::1", "29400")
    assert options["-m"] == "fedit_secure.tuning.ranked_worker"
    assert options["--patience"] == "60"
    assert not any("unused" in part for part in command)
