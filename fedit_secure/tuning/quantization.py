"""A frozen base model in int8 or NF4, by bitsandbytes: how it's loaded, what's refused.

int8 is LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339) without its outliers, NF4 is
QLoRA's data type (Dettmers et al. 2023, arXiv 2305.14314). Weights are quantised once
and alike for all records; what could mix records is how *activations* are treated. NF4
leaves them alone. int8 scales every token by its own largest value, which is fine, but
by default it also takes a column out of the 8-bit product when any token of the batch
reaches 6 in it: then one record's outlier changes what all others contribute. At
threshold 0 it doesn't.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedit_secure.config import Quantization
from fedit_secure.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

_NO_OUTLIERS = 0.0
_REFUSED = "can't be tuned privately"
# Where a checkpoint says that its weights are quantised.
_KEYS = ("quantization_config", "compression_config")
_STORED = ("Int8Params", "Params4bit")


def stored_quantization(folder: Path) -> Quantization:
    """How the weights in `folder` are quantised already, by its config.json.

    Raises:
        ConfigError: by another method than int8 without outliers or NF4 (it names the
            method and the reason), or config.json can't be read.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise ConfigError(f"{path}: can't be read ({type(wrong).__name__})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: isn't a JSON object")
    # A model of several parts may say it of one of them.
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    found = [part[key] for part in parts for key in _KEYS if part.get(key) is not None]
    stored: Quantization = "none"
    for told in found:
        stored = _ours(told if isinstance(told, dict) else {}, path)
    return stored


def _ours(told: dict[str, Any], path: Path) -> Quantization:
    eight, four = (bool(told.get(f"load_in_{bits}bit")) for bits in (8, 4))
    fallback = "bitsandbytes" if eight or four else "an unnamed method"
    method = str(told.get("quant_method", fallback))
    if method not in ("bitsandbytes", "bitsandbytes_8bit", "bitsandbytes_4bit"):
        raise ConfigError(
            f"{path}: the base model is quantised by {method[:40]!r}, which {_REFUSED}: "
            "only bitsandbytes' int8 and NF4 are known to leave records apart (one "
            "scale for all activations of a batch, as FP8 methods have, mixes them)"
        )
    if four and not eight:
        kind = str(told.get("bnb_4bit_quant_type", "fp4"))
        if kind != "nf4":
            raise ConfigError(
                f"{path}: the base model is quantised to {kind[:40]!r}, which {_REFUSED}: "
                "of the 4-bit types only nf4 is supported"
            )
        return "nf4"
    threshold = told.get("llm_int8_threshold", 6.0)
    if threshold != _NO_OUTLIERS:
        raise ConfigError(f"{path}: {_coupling(threshold)}")
    if told.get("llm_int8_has_fp16_weight"):
        raise ConfigError(
            f"{path}: the base model's int8 weights are made anew at every pass "
            f"(llm_int8_has_fp16_weight), which {_REFUSED}"
        )
    return "int8"


def _coupling(threshold: object) -> str:
    return (
        f"the base model's llm_int8_threshold is {threshold}: one record's outliers "
        f"would change the other records' gradients, so it {_REFUSED}; it must be 0"
    )


def quantized_loading(
    folder: Path,
    device: torch.device,
    precision: torch.dtype,
    quantization: Quantization,
) -> dict[str, Any]:
    """What `from_pretrained` needs to load `folder` quantised as asked, on `device`.

    Raises:
        ConfigError: the weights are quantised in another way already, or bitsandbytes
            is missing or can't do it on this device.
    """
    stored = stored_quantization(folder)
    if stored not in ("none", quantization):
        raise ConfigError(
            f"{folder}: its weights are {stored} already, but quantization is "
            f"{quantization}: say quantization: {stored}"
        )
    if quantization == "none":
        return {}
    _require_bitsandbytes(device, quantization)
    if stored == quantization:
        return {}  # its config.json says the rest
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        chosen = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=_NO_OUTLIERS)
    else:
        chosen = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision,
        )
    return {"quantization_config": chosen}


def _require_bitsandbytes(device: torch.device, quantization: Quantization) -> None:
    # It warns at every pass that int8 rounds activations to 16 bits first.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError:
        raise ConfigError(
            f"quantization: {quantization} needs the package bitsandbytes; run pip "
            "install 'fedit-secure[quantised]'"
        ) from None
    known = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    if device.type not in known:
        raise ConfigError(
            f"quantization: {quantization} needs CUDA: bitsandbytes "
            f"{bitsandbytes.__version__} can't do it on {device.type}"
        )


def settle_quantized(model: nn.Module, precision: torch.dtype) -> None:
    """Make a loaded model's quantised layers safe to tune on; `model` is changed.

    Raises:
        ConfigError: names a layer whose weights are quantised in a way that isn't
            int8 without outliers or NF4, whatever config.json says.
    """
    import torch

    computed = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for name, module in model.named_modules():
        kind = {type(p).__name__ for p in module.parameters(recurse=False)}
        if "Int8Params" in kind:
            _check_int8(name, module)
        elif "Params4bit" in kind:
            _settle_nf4(name, module, precision)
        for parameter in module.parameters(recurse=False):
            if type(parameter).__name__ in _STORED:
                continue
            if parameter.dtype not in computed:
                raise ConfigError(
                    f"the base model's {name} holds {parameter.dtype}, which {_REFUSED}"
                )
            # The rest of a checkpoint that was saved quantised comes in its own type.
            # What an architecture keeps in float32 on purpose stays.
            if parameter.dtype not in (torch.float32, precision):
                parameter.data = parameter.data.to(precision)


def _check_int8(name: str, module: Any) -> None:
    state = module.state
    if state.threshold != _NO_OUTLIERS:
        raise ConfigError(f"{_coupling(state.threshold)} ({name})")
    if state.has_fp16_weights:
        raise ConfigError(f"the base model's {name} isn't int8: it {_REFUSED}")


def _settle_nf4(name: str, module: Any, precision: torch.dtype) -> None:
    quant_type = module.weight.quant_type
    if quant_type != "nf4":
        raise ConfigError(
            f"the base model's {name} is {quant_type}, which {_REFUSED}: of the 4-bit "
            "types only nf4 is supported"
        )
    module.compute_dtype = precision
    module.compute_type_is_set = True
    # On processors with AVX512-BF16, the first pass without gradients would repack the
    # weights for good, and every later pass would go through a kernel that autograd
    # doesn't know: the layers below would get a wrong gradient, silently.
    module.support_avx512bf16_for_cpu = False
