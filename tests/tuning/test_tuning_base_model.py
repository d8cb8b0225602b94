"""Base models load from safetensors as data, and unfit ones are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import base_model
from torch import nn
from transformers import AutoConfig

from fedit_secure.errors import ConfigError
from fedit_secure.federation.base_model import base_model_digest
from fedit_secure.tuning.adapter import attach_adapter, peft_config
from fedit_secure.tuning.base_model import (
    check_digest,
    load_base_model,
    load_tokenizer,
    refuse_too_long,
    resolve_base_model,
)
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.refusals import refuse_coupled_records

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "models"


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_a_model_loads_frozen_in_float32(model_folder: Path) -> None:
    model = load_base_model(model_folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())


def test_half_precision_weights_become_float32() -> None:
    folder = REAL / "public-base-2.5m"
    if not folder.is_dir():
        pytest.skip("the shared base model isn't on this machine")
    model = load_base_model(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    refuse_too_long(model, load_tokenizer(folder), 512)


def test_the_digest_is_checked(model_folder: Path) -> None:
    check_digest(model_folder, base_model_digest(model_folder).hex())
    with pytest.raises(ConfigError, match="isn't the base model that was agreed on"):
        check_digest(model_folder, "00" * 32)


def test_an_unknown_folder_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "none"):
        with pytest.raises(ConfigError, match="none: no such base model folder"):
            resolve_base_model(name)


def test_a_repository_that_cannot_be_had_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def offline(*args: object, **options: object) -> str:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match=r"some/model: is neither .*ConnectionError"):
        resolve_base_model("some/model")


def test_pickled_weights_are_not_read(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_base_model(folder)


def test_code_of_the_model_is_not_run(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "their_own"
    config["auto_map"] = {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text("open('ran', 'w')\n")
    with pytest.raises(ConfigError, match="isn't a causal language model"):
        load_base_model(folder)


def test_damaged_weights_are_named(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ConfigError, match="isn't a causal language model"):
        load_base_model(folder)


def test_missing_weights_are_not_drawn_at_random(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = copied(model_folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("o_proj.weight"))
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=f"its weights lack {lost}"):
        load_base_model(folder)


def test_an_adapter_in_the_folder_is_refused(
    model_folder: Path, tmp_path: Path
) -> None:
    """transformers would load it too, and its settings aren't in the digest."""
    folder, lora = copied(model_folder, tmp_path), LoraConfig(rank=2)
    attach_adapter(load_base_model(folder), lora).save_pretrained(folder)
    with pytest.raises(ConfigError, match="carries an adapter already"):
        attach_adapter(load_base_model(folder), lora)


def test_a_model_is_tuned_by_one_adapter() -> None:
    model, lora = base_model(), LoraConfig(rank=2)
    model.add_adapter(peft_config(lora))
    with pytest.raises(ConfigError, match="carries an adapter already"):
        attach_adapter(model, lora)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("t5", r"\(t5\) is an encoder with a decoder"),
        ("bart", r"\(bart\) is an encoder with a decoder"),
        ("whisper", r"\(whisper\) is an encoder with a decoder"),
        ("gemma3", r"\(gemma3\) takes more than tokens"),
        ("llama4", r"\(llama4\) takes more than tokens"),
        ("llava", r"\(llava\) takes more than tokens"),
        ("phi4_multimodal", r"\(phi4_multimodal\) takes more than tokens"),
        ("qwen2_vl", r"\(qwen2_vl\) takes more than tokens"),
        ("bert", r"this bert isn't a causal language model|its weights lack"),
        ("vit", "this vit isn't a causal language model"),
    ],
)
def test_other_kinds_of_model_are_refused(
    kind: str, reason: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = copied(model_folder, tmp_path)
    AutoConfig.for_model(kind).save_pretrained(folder)
    with pytest.raises(ConfigError, match=reason):
        load_base_model(folder)


def test_a_missing_tokenizer_is_named(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ConfigError, match="its tokenizer can't be loaded"):
        load_tokenizer(folder)


def test_batch_normalisation_is_refused() -> None:
    model = base_model()
    model.model.layers[0].mlp.add_module("norm", nn.BatchNorm1d(32))
    with pytest.raises(ConfigError, match=r"batch .*model\.layers\.0\.mlp\.norm"):
        refuse_coupled_records(model)


@pytest.mark.parametrize(
    ("setting", "value"), [("output_router_logits", True), ("expert_capacity", 64)]
)
def test_experts_that_couple_records_are_refused(setting: str, value: object) -> None:
    model = base_model()
    setattr(model.config, setting, value)
    with pytest.raises(ConfigError, match=f"experts.*{setting}"):
        refuse_coupled_records(model)


def test_a_cut_beyond_the_positions_is_refused(tokenizer) -> None:
    model = base_model()
    refuse_too_long(model, tokenizer, 128)
    with pytest.raises(ConfigError, match=r"max_tokens is 129.* has 128 positions"):
        refuse_too_long(model, tokenizer, 129)


def test_a_tokenizer_of_another_model_is_refused(tokenizer) -> None:
    import copy

    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([f"<extra {n}>" for n in range(100)])
    with pytest.raises(ConfigError, match=r"the tokenizer has .* tokens, but the base"):
        refuse_too_long(base_model(), larger, 64)
