"""`fedit merge`: from a run's folder to a model of its own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from evaluation.adapted import demo_adapter

from fedit_secure.cli.main import main
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.evaluation.merge import MERGED
from fedit_secure.storage.adapter_store import save_peft

LORA = {"rank": 2, "alpha": 16, "dropout": 0.0, "targets": ["layers.3.mlp.down_proj"]}


@pytest.fixture
def run_folder(federation):
    """What an aggregator keeps of a run, as far as a merge reads it."""
    folder = federation / "run"
    folder.mkdir()
    shutil.copy(federation / "charter.json", folder)
    layout = json.loads((folder / "charter.json").read_text())["adapter"]["layout"]
    arrays = {key: np.full(shape, 0.01, np.float32) for key, shape in layout}
    for place in ("adapter", "rounds/001/adapter"):
        save_peft(folder / place, arrays, LORA, str(federation / "base"))
    return folder


@pytest.mark.parametrize("place", ["adapter", "rounds/001/adapter"])
def test_a_runs_adapter_is_merged_into_the_charters_base(fedit, run_folder, place):
    output = run_folder.parent / "merged"
    done = fedit("merge", run_folder / place, "-o", output, "--format", "json")
    assert done.status == 0, done.err
    assert done.err == ""
    assert (
        done.json["base_model"]
        == json.loads((run_folder / "charter.json").read_text())["base_model"]["digest"]
    )
    assert (output / MERGED).is_file()


def test_a_base_that_the_charter_does_not_name_is_refused(fedit, run_folder):
    (run_folder.parent / "base" / "added_tokens.json").write_text("{}")
    done = fedit("merge", run_folder / "adapter", "-o", run_folder.parent / "merged")
    assert done.status == 4
    assert "isn't the base model that was agreed on" in done.err
    assert not (run_folder.parent / "merged").exists()


def test_an_adapter_that_is_not_the_charters_is_refused(fedit, run_folder, tmp_path):
    other = demo_adapter(tmp_path / "other")
    charter = run_folder / "charter.json"
    done = fedit("merge", other, "-o", tmp_path / "merged", "--charter", charter)
    assert done.status == 4
    assert "isn't one of the charter" in done.err


def test_without_a_charter_the_base_is_only_what_it_seems(fedit, tmp_path):
    adapter, output = demo_adapter(tmp_path / "adapter"), tmp_path / "merged"
    done = fedit("merge", adapter, "-o", output, "--base", base_model_path())
    assert done.status == 0
    assert "no charter says" in done.err
    again = fedit("merge", adapter, "-o", output)
    assert again.status == 4
    assert "--force" in again.err


def test_an_adapter_without_a_base_needs_one(tmp_path, capsys):
    adapter = demo_adapter(tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    fields = json.loads(path.read_text()) | {"base_model_name_or_path": None}
    path.write_text(json.dumps(fields))
    assert main(["merge", str(adapter), "-o", str(tmp_path / "merged")]) == 4
    assert "give --base" in capsys.readouterr().err
