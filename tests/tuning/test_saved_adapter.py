"""Which adapters are taken, and the one sentence for those that aren't."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from audit.remembering import (
    LORA,
    MAX_TOKENS,
    TEMPLATE,
    load_model,
    notes,
    save,
    tuned_on,
)
from peft import PeftModel
from safetensors.numpy import load_file, save_file

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.federation.adapter_digests import adapter_of
from fedit_secure.federation.update import from_float32
from fedit_secure.tuning.adapter import attach_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import make_examples
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.saved_adapter import SavedAdapter, read_peft_adapter


@pytest.fixture(scope="module")
def adapter():
    return tuned_on(notes(2, seed=5), steps=1)


@pytest.fixture
def folder(adapter, tmp_path):
    return save(adapter, tmp_path / "adapter")


def configure(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_saved_adapter_is_read_back(adapter, folder):
    read = read_peft_adapter(folder)
    assert read.lora.rank == LORA.rank
    assert read.lora.alpha == LORA.alpha
    assert set(read.lora.targets) == set(LORA.targets)
    assert read.layout == adapter.layout
    np.testing.assert_array_equal(read.vector, adapter.vector)
    assert read.digest == adapter.digest


def test_what_peft_itself_saves_is_read(tmp_path):
    lora = LoraConfig(rank=2, targets=("q_proj",))
    attach_adapter(load_base_model(base_model_path()), lora).save_pretrained(tmp_path)
    read = read_peft_adapter(tmp_path)
    assert read.lora.targets == ("q_proj",)
    assert load_model(read) is not None


def test_a_state_is_named_as_auditors_name_it(adapter):
    state = from_float32(adapter.layout, adapter.vector)
    tested = SavedAdapter.of_state("round 3", LORA, state)
    assert tested.digest == adapter_of(state)
    np.testing.assert_allclose(tested.vector, adapter.vector, atol=1e-6)


def test_half_precision_is_widened(adapter, folder):
    path = folder / "adapter_model.safetensors"
    save_file({k: v.astype(np.float16) for k, v in load_file(path).items()}, path)
    read = read_peft_adapter(folder)
    assert read.vector.dtype == np.float32
    np.testing.assert_allclose(read.vector, adapter.vector, atol=1e-3)


def test_scores_are_those_of_peft(adapter, folder):
    """The model under test is the one that its user would load."""
    records = notes(3, seed=6)
    (scored, *_) = load_model(adapter).score(records)
    base = load_base_model(base_model_path())
    theirs = PeftModel.from_pretrained(base, str(folder)).eval()
    tokenizer = load_tokenizer(base_model_path())
    (example, *_) = make_examples(records, tokenizer, TEMPLATE, MAX_TOKENS)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(example.tokens)[None]).logits[0]
    labels = example.tokens[example.first_label :]
    log_probs = logits.log_softmax(-1)[example.first_label - 1 : -1].double().numpy()
    expected = log_probs[np.arange(len(labels)), labels]
    np.testing.assert_allclose(scored.adapter.log_probs, expected, rtol=1e-4)


BAD_CONFIGS = {
    "DoRA": ({"use_dora": True}, "use_dora is set"),
    "scaling": ({"use_rslora": True}, "use_rslora is set"),
    "saved modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
    "ranks": ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is set"),
    "moved base": ({"init_lora_weights": "pissa"}, "init_lora_weights is set"),
    "bias": ({"bias": "all"}, "bias is set"),
    "unknown": ({"from_the_future": 1}, "from_the_future is set"),
    "not LoRA": ({"peft_type": "IA3"}, "isn't the configuration of a LoRA adapter"),
    "no rank": ({"r": None}, "its rank can't be used"),
    "wrong rank": ({"r": "many"}, "its rank can't be used"),
    "pattern": ({"target_modules": ".*proj"}, "its targets can't be used"),
    "no targets": ({"target_modules": []}, "targets"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_configurations_that_are_not_plain_lora(folder, case):
    fields, said = BAD_CONFIGS[case]
    configure(folder, **fields)
    with pytest.raises(ConfigError, match=said) as refused:
        read_peft_adapter(folder)
    assert "adapter_config.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def damaged(folder, case):
    weights, config = (
        folder / "adapter_model.safetensors",
        folder / "adapter_config.json",
    )
    if case == "no folder":
        return folder / "nowhere", "no such adapter folder"
    if case == "no weights":
        weights.unlink()
        return folder, "adapter_model.safetensors can't be read"
    if case == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-9])
        return folder, "isn't a safetensors file"
    if case == "empty weights":
        save_file({}, weights)
        return folder, "has no tensors"
    if case == "integers":
        save_file({"a": np.ones(3, np.int32)}, weights)
        return folder, "a is int32"
    if case == "not finite":
        tensors = load_file(weights)
        next(iter(tensors.values()))[0, 0] = np.nan
        save_file(tensors, weights)
        return folder, "isn't finite"
    if case == "no configuration":
        config.unlink()
        return folder, "adapter_config.json can't be read"
    config.write_text("{" if case == "not JSON" else "[]")
    return (
        folder,
        "isn't valid JSON" if case == "not JSON" else "isn't the configuration",
    )


@pytest.mark.parametrize(
    "case",
    [
        "no folder",
        "no weights",
        "cut weights",
        "empty weights",
        "integers",
        "not finite",
        "no configuration",
        "not JSON",
        "a list",
    ],
)
def test_damaged_folders(folder, case):
    path, said = damaged(folder, case)
    with pytest.raises(ConfigError, match=said):
        read_peft_adapter(path)


def test_an_adapter_of_another_model_does_not_fit(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    key = min(tensors)
    save_file(tensors | {key: np.ones((3, 5), np.float32)}, path)
    with pytest.raises(ConfigError, match=r"adapter: the layout names .*layers\.3"):
        load_model(read_peft_adapter(folder))
    configure(folder, target_modules=["no_such_proj"])
    with pytest.raises(ConfigError, match="doesn't fit the base model"):
        load_model(read_peft_adapter(folder))
