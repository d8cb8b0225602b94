"""A tuning job is the charter's, but where and in what form it runs is the silo's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_federation import found

from fedit_secure.config import DataConfig, SiloConfig
from fedit_secure.federation.update import from_float32
from fedit_secure.silo.jobs import tune_job


def test_the_silo_chooses_how_its_base_model_is_kept(tmp_path: Path) -> None:
    charter = found(tmp_path, 4).charter
    layout = charter.adapter.layout
    paths = ("identity", "state", "charter", "approval", "policy")
    config = SiloConfig(
        name=charter.roster[0].name,
        data=DataConfig(path="records.jsonl"),
        model="base",
        device="auto",
        precision="bfloat16",
        quantization="nf4",
        **{name: tmp_path / name for name in paths},
    )
    length = sum(int(np.prod(shape)) for _, shape in layout)
    state = from_float32(layout, np.zeros(length, np.float32))
    job = tune_job(config, charter, state, tmp_path / "tuning")
    assert (job.device, job.precision, job.quantization) == ("auto", "bfloat16", "nf4")
    assert job.model_digest == charter.base_model.digest
