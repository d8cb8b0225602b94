"""The adapter is one ordered float32 vector, and PEFT opens what it is stored as."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.numpy import save_file
from tiny_models import base_model, tuned_model

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import (
    adapter_layout,
    adapter_parameters,
    attach_adapter,
    check_layout,
    initial_adapter,
    peft_config,
    read_adapter,
    write_adapter,
)
from fedit_secure.tuning.job import LoraConfig


def test_the_keys_are_those_peft_saves() -> None:
    for family in ("llama", "gpt2"):
        model = tuned_model(family)
        keys = [key for key, _ in adapter_layout(model)]
        assert keys == sorted(get_peft_model_state_dict(model))


def test_what_is_written_is_read_back() -> None:
    model = tuned_model()
    vector = np.arange(read_adapter(model).size, dtype=np.float32)
    write_adapter(model, vector)
    assert np.array_equal(read_adapter(model), vector)
    first_key, first_shape = adapter_layout(model)[0]
    stored = get_peft_model_state_dict(model)[first_key]
    assert np.array_equal(stored.numpy().ravel(), vector[: np.prod(first_shape)])


def test_peft_opens_the_stored_vector(model_folder, tmp_path) -> None:
    from fedit_secure.tuning.base_model import load_base_model

    lora = LoraConfig(rank=2, alpha=8)
    tuned = attach_adapter(load_base_model(model_folder), lora)
    vector = np.random.default_rng(0).normal(0, 0.2, read_adapter(tuned).size)
    write_adapter(tuned, vector.astype("f4"))
    tensors, start = {}, 0
    for key, shape in adapter_layout(tuned):
        stop = start + int(np.prod(shape))
        tensors[key] = vector[start:stop].astype("f4").reshape(shape)
        start = stop
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    peft_config(lora).save_pretrained(tmp_path)
    opened = PeftModel.from_pretrained(load_base_model(model_folder), tmp_path)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        ours, theirs = tuned(tokens).logits, opened.eval()(tokens).logits
    assert torch.equal(ours, theirs)


def test_the_initial_adapter_changes_nothing_and_depends_on_the_seed_alone() -> None:
    model, lora = base_model(), LoraConfig(rank=3)
    torch.manual_seed(1)
    layout, vector = initial_adapter(model, lora, seed=7)
    torch.manual_seed(2)
    again = initial_adapter(model, lora, seed=7)
    assert again[0] == layout
    assert np.array_equal(again[1], vector)
    assert not np.array_equal(initial_adapter(model, lora, seed=8)[1], vector)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        before = base_model()(tokens).logits
        left = model(tokens).logits
        tuned = attach_adapter(model, lora)
        check_layout(tuned, layout)
        write_adapter(tuned, vector)
        after = tuned(tokens).logits
    assert torch.equal(left, before)
    assert torch.equal(after, before)


def test_everything_that_trains_is_float32_lora() -> None:
    parameters = adapter_parameters(tuned_model())
    assert {p.dtype for _, p in parameters} == {torch.float32}
    assert all(".lora_A." in key or ".lora_B." in key for key, _ in parameters)


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"target_modules": ["embed_tokens"]},
        {"trainable_token_indices": [1, 2]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "bias": "lora_only", "lora_bias": True},
    ],
)
def test_what_has_no_record_gradient_is_refused(change: dict[str, object]) -> None:
    options = {"task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"]} | change
    model = get_peft_model(base_model(), PeftLoraConfig(**options))
    with pytest.raises(ConfigError, match="can't be tuned privately"):
        adapter_parameters(model)


@pytest.mark.parametrize(
    "config",
    [
        peft.VeraConfig(target_modules=["q_proj", "o_proj"], r=2),
        peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[]),
        peft.LoHaConfig(target_modules=["q_proj"], r=2),
        peft.LoKrConfig(target_modules=["q_proj"], r=2),
        peft.OFTConfig(target_modules=["q_proj"], oft_block_size=8),
        peft.AdaLoraConfig(target_modules=["q_proj"], init_r=2, total_step=9),
        peft.PromptTuningConfig(num_virtual_tokens=2),
        peft.PrefixTuningConfig(num_virtual_tokens=2),
        peft.LNTuningConfig(target_modules=["input_layernorm"]),
        peft.TrainableTokensConfig(token_indices=[1, 2]),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_other_kinds_of_adapter_are_refused(config: peft.PeftConfig) -> None:
    config.task_type = "CAUSAL_LM"
    model = get_peft_model(base_model(), config)
    with pytest.raises(ConfigError, match="can't be tuned privately"):
        adapter_parameters(model)


def test_an_embedding_or_a_head_as_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't be tuned privately"):
        attach_adapter(base_model(), LoraConfig(targets=("embed_tokens",)))
    with pytest.raises(ConfigError, match="can't be tuned privately"):
        attach_adapter(base_model(), LoraConfig(targets=("lm_head",)))


def test_half_precision_adapters_are_refused() -> None:
    model = tuned_model()
    model.base_model.model.model.layers[0].self_attn.q_proj.lora_A.bfloat16()
    with pytest.raises(ConfigError, match="must be float32"):
        adapter_parameters(model)


def test_a_model_without_the_targets_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^LoRA doesn't fit the base model: \S.*$"):
        attach_adapter(base_model(), LoraConfig(targets=("nowhere",)))


def test_a_vector_that_does_not_fit_is_refused() -> None:
    model = tuned_model()
    with pytest.raises(ConfigError, match="coordinates, not 3"):
        write_adapter(model, np.zeros(3, np.float32))
    vector = read_adapter(model)
    vector[5] = np.nan
    with pytest.raises(ConfigError, match="isn't finite"):
        write_adapter(model, vector)


def test_a_layout_of_another_model_is_refused() -> None:
    layout = adapter_layout(tuned_model())
    with pytest.raises(ConfigError, match="where the base model has"):
        check_layout(tuned_model("gpt2"), layout)
    with pytest.raises(ConfigError, match="names 13 tensors"):
        check_layout(tuned_model(), layout[:-1])
