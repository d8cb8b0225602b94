"""A tuning job is one line of JSON, and refuses what it doesn't know."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.job import (
    ColumnMap,
    DataSource,
    LoraConfig,
    OptimizerConfig,
    Progress,
    TuneJob,
)


def job() -> TuneJob:
    return TuneJob(
        model="base",
        model_digest="ab" * 32,
        data=DataSource(path="r.jsonl", columns=ColumnMap(input="context")),
        lora=LoraConfig(rank=4, targets=("q_proj", "v_proj")),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.8, 0.99)),
        plan={"kind": "local", "clip": 0.5},
        state_path="state.safetensors",
        layout=(("layer.lora_A.weight", (4, 8)), ("layer.lora_B.weight", (8, 4))),
    )


def test_a_job_survives_its_json() -> None:
    assert TuneJob.from_json(job().to_json()) == job()
    assert "\n" not in job().to_json()


def test_a_job_is_written_as_a_file(tmp_path) -> None:
    path = tmp_path / "job.json"
    job().write(path)
    assert TuneJob.from_json(path.read_bytes()) == job()


def test_length_counts_the_coordinates() -> None:
    assert job().length == 64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"use_dora": True}}, "lora.use_dora"),
        ({"lora": {"init_lora_weights": "eva"}}, "lora.init_lora_weights"),
        ({"lora": {"targets": []}}, "lora"),
        ({"optimizer": {"name": "adamw"}}, "optimizer.learning_rate"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate"),
        ({"model_digest": "xyz"}, "model_digest"),
        ({"device": "tpu"}, "device"),
        ({"precision": "float16"}, "precision"),
        ({"quantization": "int4"}, "quantization"),
        ({"layout": []}, "layout"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], named: str) -> None:
    document = json.loads(job().to_json()) | change
    with pytest.raises(ConfigError, match=f"^tuning job: {named}: .+$") as caught:
        TuneJob.from_json(json.dumps(document))
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="tuning job"):
        TuneJob.from_json("{")


def test_progress_reads_well() -> None:
    assert str(Progress("loading")) == "loading"
    assert str(Progress("tuning", 2, 6)) == "step 2 of 6"


def test_jobs_and_the_tuner_need_no_torch() -> None:
    code = (
        "import sys, fedit_secure.tuning.job, fedit_secure.tuning.records, "
        "fedit_secure.tuning.examples, fedit_secure.silo.tuner;"
        "sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
