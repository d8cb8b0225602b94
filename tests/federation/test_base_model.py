from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from fedit_secure.errors import ConfigError
from fedit_secure.federation.base_model import base_model_digest

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "models"


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "base"
    made.mkdir()
    for name, text in {
        "config.json": "{}",
        "model.safetensors": "weights",
        "tokenizer.json": "tokens",
        "README.md": "hello",
        "generation_config.json": "{}",
    }.items():
        (made / name).write_text(text)
    return made


def field(data):
    return len(data).to_bytes(8, "little") + data


def test_the_digest_is_the_documented_hash(folder):
    expected = hashlib.sha256(field(b"fedit/base-model/v1"))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = hashlib.sha256((folder / name).read_bytes()).digest()
        expected.update(field(name.encode()) + field(content))
    assert base_model_digest(folder) == expected.digest()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_each_part_counts(folder, name):
    before = base_model_digest(folder)
    (folder / name).write_text("other")
    assert base_model_digest(folder) != before


def test_a_file_under_another_name_counts(folder):
    before = base_model_digest(folder)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    assert base_model_digest(folder) != before


def test_what_is_no_part_of_the_model_does_not_count(folder):
    before = base_model_digest(folder)
    (folder / "README.md").unlink()
    (folder / "training_args.bin").write_bytes(b"pickle")
    assert base_model_digest(folder) == before


def test_links_are_followed(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).symlink_to(file)
    assert base_model_digest(linked) == base_model_digest(folder)


@pytest.mark.parametrize(
    ("missing", "why"), [("config.json", "no config"), ("model.safetensors", "weights")]
)
def test_an_incomplete_folder_is_refused(folder, missing, why):
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=why):
        base_model_digest(folder)


def test_an_unknown_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no base model folder .*/nowhere"):
        base_model_digest(tmp_path / "nowhere")


def test_a_real_base_model(tmp_path):
    real = SHARED / "public-base-2.5m"
    if not real.is_dir():
        pytest.skip("the shared base model isn't here")
    copy = tmp_path / "copy"
    shutil.copytree(real, copy)
    assert base_model_digest(copy) == base_model_digest(real)
