"""A tuning job is the charter's, but where and in what form it runs is the silo's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_federation import LENGTH, found

from fedit_secure.config import DataConfig, SiloConfig, Torchrun
from fedit_secure.errors import StorageError
from fedit_secure.federation.update import from_float32
from fedit_secure.silo.jobs import tune_job
from fedit_secure.tuning.job import TuneJob


def job_in(folder: Path, **options: Any) -> TuneJob:
    charter = found(folder.parent, 4).charter
    layout = charter.adapter.layout
    paths = ("identity", "state", "charter", "approval", "policy")
    config = SiloConfig(
        name=charter.roster[0].name,
        data=DataConfig(path="records.jsonl"),
        model="base",
        device="auto",
        precision="bfloat16",
        quantization="nf4",
        **{name: folder.parent / name for name in paths},
        **options,
    )
    length = sum(int(np.prod(shape)) for _, shape in layout)
    state = from_float32(layout, np.ones(length, np.float32))
    return tune_job(config, charter, 1, state, folder)


def test_the_silo_chooses_how_its_base_model_is_kept(tmp_path: Path) -> None:
    job = job_in(tmp_path / "tuning")
    assert (job.device, job.precision, job.quantization) == ("auto", "bfloat16", "nf4")
    assert job.model_digest == "00" * 32
    kept = load_file(job.state_path)
    assert kept["adapter"].tolist() == [1.0] * LENGTH


def test_the_processes_of_a_host_share_its_threads(tmp_path: Path) -> None:
    two = Torchrun(processes=2)
    job = job_in(tmp_path / "a" / "tuning", torchrun=two, threads=5)
    assert (job.torchrun, job.threads) == (two, 2)
    crowded = job_in(
        tmp_path / "b" / "tuning", torchrun=Torchrun(processes=8), threads=5
    )
    assert crowded.threads == 1


def test_a_full_disk_is_noticed_before_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it, a charge would be lost with the update that has no room."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="has 1 MiB left, and 1 MiB are needed"):
        job_in(tmp_path / "tuning")
    assert not list((tmp_path / "tuning").iterdir())


def test_a_state_that_cant_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "tuning").write_text("a file in the folder's place")
    with pytest.raises(StorageError, match="tuning can't be made: File exists"):
        job_in(tmp_path / "tuning")
