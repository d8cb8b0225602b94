"""int8 and NF4 bases: records stay apart, and what would couple them is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixed_shapes import (
    fixed_batch,
    gap,
    record_rows,
    rows_alone,
    tuned_from,
    with_adapter,
)
from tiny_models import base_model, random_examples
from torch import nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.base_model import load_base_model, needs_fixed_shapes
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.quantization import settle_quantized
from fedit_secure.tuning.record_gradients import clip_units

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="the package bitsandbytes isn't installed (extra quantised)",
)
KINDS = [(q, p) for q in ("int8", "nf4") for p in ("float32", "bfloat16")]
EXAMPLES = random_examples(4, 20)
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
}


def told(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of `folder` whose config.json says `changes` too."""
    copy = Path(shutil.copytree(folder, to / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Llama whose inner sizes are multiples of NF4's block of 64."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        vocab_size=300,
    )
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("wide")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize(
    "method", ["gptq", "awq", "fp8", "fbgemm_fp8", "hqq", "compressed-tensors", "new"]
)
def test_other_methods_are_refused_by_name(
    model_folder: Path, tmp_path: Path, key: str, method: str
) -> None:
    folder = told(model_folder, tmp_path, **{key: {"quant_method": method}})
    with pytest.raises(ConfigError, match=rf"quantised by '{method}'.* FP8 .*mixes"):
        load_base_model(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (INT8 | {"llm_int8_threshold": 6.0}, "threshold is 6.0: one record's outliers"),
        (INT8, "llm_int8_threshold is 6.0"),  # the method's default
        (INT8 | {"llm_int8_threshold": None}, "llm_int8_threshold is None"),
        (
            INT8 | {"llm_int8_threshold": 0.0, "llm_int8_has_fp16_weight": True},
            "made anew at every pass",
        ),
        (NF4 | {"bnb_4bit_quant_type": "fp4"}, "quantised to 'fp4'"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "to 'fp4'"),
        ({}, "quantised by 'an unnamed method'"),
        ("gptq", "quantised by 'an unnamed method'"),
        ({"quant_method": ["x"] * 99}, "quantised by"),
    ],
)
@pytest.mark.parametrize("asked", ["none", "int8", "nf4"])
def test_unfit_settings_are_refused_by_name(
    model_folder: Path, tmp_path: Path, config: object, reason: str, asked: Any
) -> None:
    folder = told(model_folder, tmp_path, quantization_config=config)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_base_model(folder, quantization=asked)
    assert "can't be tuned privately" in str(caught.value)


def test_a_method_named_for_a_part_of_the_model_is_seen(
    model_folder: Path, tmp_path: Path
) -> None:
    part = {"quantization_config": {"quant_method": "fp8"}}
    folder = told(model_folder, tmp_path, text_config=part)
    with pytest.raises(ConfigError, match="quantised by 'fp8'"):
        load_base_model(folder)


@pytest.mark.parametrize("content", ["[]", "{", "\ud800"])
def test_a_damaged_config_is_named(
    model_folder: Path, tmp_path: Path, content: str
) -> None:
    folder = told(model_folder, tmp_path)
    (folder / "config.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"config\.json: "):
        load_base_model(folder)


@pytest.mark.parametrize("asked", ["none", "int8"])
def test_a_stored_quantisation_must_be_the_one_asked_for(
    model_folder: Path, tmp_path: Path, asked: Any
) -> None:
    folder = told(model_folder, tmp_path, quantization_config=NF4)
    with pytest.raises(ConfigError, match="are nf4 already, but quantization is"):
        load_base_model(folder, quantization=asked)


def test_a_missing_package_is_named(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"int8 needs .*fedit-secure\[quantised\]"):
        load_base_model(model_folder, quantization="int8")


def test_a_package_without_this_device_is_named(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = SimpleNamespace(__version__="0.45.0")
    monkeypatch.setitem(sys.modules, "bitsandbytes", old)
    with pytest.raises(ConfigError, match=r"nf4 needs CUDA: .*0\.45\.0 can't .* cpu$"):
        load_base_model(model_folder, quantization="nf4")


def test_weights_of_another_kind_are_refused_whatever_the_config_says() -> None:
    model = base_model()
    layer = model.model.layers[0].mlp.up_proj
    eight_bits = layer.weight.data.to(torch.float8_e4m3fn)
    layer.weight = nn.Parameter(eight_bits, requires_grad=False)
    with pytest.raises(ConfigError, match=r"mlp\.up_proj holds torch\.float8"):
        settle_quantized(model, torch.float32)


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"load_in_8bit": True}, r"threshold is 6\.0: .*layers\.0\.self_attn\.q_proj"),
        ({"load_in_4bit": True}, r"layers\.0\.self_attn\.q_proj is fp4"),
    ],
)
def test_unfit_layers_are_refused_whatever_the_config_says(
    model_folder: Path, config: dict[str, bool], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        settle_quantized(as_the_library_does(model_folder, **config), torch.float32)


# --------------------------------------------------------------- records stay apart


def as_the_library_does(folder: Path, **config: Any) -> nn.Module:
    """The model quantised with bitsandbytes' own defaults."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    return AutoModelForCausalLM.from_pretrained(
        str(folder),
        quantization_config=BitsAndBytesConfig(**config),
        dtype=torch.float32,
        device_map={"": "cpu"},
    ).eval()


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "precision"), KINDS)
def test_at_one_shape_other_records_change_nothing(
    model_folder: Path, quantization: str, precision: str
) -> None:
    options = {"quantization": quantization, "precision": precision}
    model = tuned_from(model_folder, **options)
    assert {p.dtype for _, p in adapter_parameters(model)} == {torch.float32}
    quantised = {"int8": torch.int8, "nf4": torch.uint8}[quantization]
    kinds = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert kinds == {quantised, getattr(torch, precision)}
    rows = record_rows(model, fixed_batch(EXAMPLES, [0, 1, 2, 3], 24))
    assert torch.equal(rows, rows_alone(model, EXAMPLES, 4, 24))
    clipped = [rows.clone()]
    clip_units(clipped, None, len(rows), 0.05)
    assert float(clipped[0].double().norm(dim=1).max()) <= 0.05 * (1 + 1e-6)


@needs_bitsandbytes
def test_an_outlier_of_one_record_moves_another_at_the_default_threshold(
    wide_folder: Path, tmp_path: Path
) -> None:
    """The attack: a token whose activation is one large value, in the attacker's record.

    Its column leaves the 8-bit product for every token of the batch.
    """
    outlier, folder = 7, Path(shutil.copytree(wide_folder, tmp_path / "copy"))
    model = load_base_model(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[outlier] = 0.0
        model.model.embed_tokens.weight[outlier, 5] = 9.0  # 8 after the norm: above 6
    model.save_pretrained(folder)
    victim = Example(np.arange(20, 36), 6)
    attacker = Example(np.full(16, outlier), 6)
    calm = Example(np.arange(40, 56), 6)

    def moved(model: nn.Module) -> float:
        with_calm = fixed_batch([victim, calm], [0, 1], 16)
        attacked = fixed_batch([victim, attacker], [0, 1], 16)
        before, after = (record_rows(model, b)[:1] for b in (with_calm, attacked))
        return gap(after, before)

    theirs = with_adapter(as_the_library_does(folder, load_in_8bit=True))
    assert moved(theirs) > 1e-4
    assert moved(tuned_from(folder, quantization="int8")) == 0.0


@needs_bitsandbytes
def test_a_pass_without_gradients_changes_no_later_gradient(wide_folder: Path) -> None:
    # On processors with AVX512-BF16, bitsandbytes would repack NF4 weights in that
    # pass, for a kernel that has no backward.
    model = tuned_from(wide_folder, quantization="nf4")
    batch = fixed_batch(EXAMPLES, [0, 1, 2, 3], 24)
    before = record_rows(model, batch)
    with torch.no_grad():
        model(input_ids=torch.from_numpy(batch.tokens))
    assert torch.equal(record_rows(model, batch), before)


@needs_bitsandbytes
def test_a_quantised_layer_passes_the_gradient_of_its_weights(
    wide_folder: Path,
) -> None:
    """Against the same model with its NF4 weights written out in float32."""
    quantised = load_base_model(wide_folder, quantization="nf4")
    plain = load_base_model(wide_folder)
    from bitsandbytes.functional import dequantize_4bit

    for name, module in quantised.named_modules():
        if type(module.weight if hasattr(module, "weight") else 0).__name__ == (
            "Params4bit"
        ):
            written = dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data.copy_(written)
    batch = fixed_batch(EXAMPLES, [0, 1, 2, 3], 24)
    rows, expected = (record_rows(with_adapter(m), batch) for m in (quantised, plain))
    assert gap(rows, expected) < 1e-4


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "precision"), KINDS)
def test_fixed_shapes_are_needed_below_float32(
    model_folder: Path, quantization: str, precision: str
) -> None:
    options = {"quantization": quantization, "precision": precision}
    exact = (quantization, precision) == ("nf4", "float32")
    assert needs_fixed_shapes(tuned_from(model_folder, **options)) is not exact


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_stored_quantisation_loads_as_itself(
    model_folder: Path, tmp_path: Path, quantization: Any
) -> None:
    first = load_base_model(model_folder, quantization=quantization)
    first.save_pretrained(tmp_path / "saved")
    again = load_base_model(tmp_path / "saved", quantization=quantization)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, first(tokens).logits)
    half = load_base_model(
        tmp_path / "saved", quantization=quantization, precision="bfloat16"
    )
    assert needs_fixed_shapes(half)
