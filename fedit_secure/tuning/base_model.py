"""The frozen base model: finding it, loading it, refusing one that can't be used.

Only safetensors are read and no code of a model's author is run: a base model is data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedit_secure.config import Device, Precision, Quantization
from fedit_secure.errors import ConfigError
from fedit_secure.federation.base_model import (
    DIGESTED_FILES,
    base_model_digest,
    base_model_files,
)
from fedit_secure.tuning.quantization import quantized_loading, settle_quantized
from fedit_secure.tuning.refusals import refuse_coupled_records, refuse_kind

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def resolve_base_model(model: str) -> Path:
    """The folder of `model`: itself, or the local copy of that hub repository.

    Raises:
        ConfigError: neither a folder nor a repository that can be had.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise ConfigError(f"{model}: no such base model folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(DIGESTED_FILES)))
    # The hub's client raises many unrelated types: offline, unknown, gated, damaged.
    except Exception as wrong:  # noqa: BLE001
        raise ConfigError(
            f"{model}: is neither a base model folder here nor one that the hub gives "
            f"us ({type(wrong).__name__})"
        ) from None


def check_digest(folder: Path, expected: str) -> None:
    """Refuse a base model whose digest isn't `expected` (hexadecimal).

    Raises:
        ConfigError: names the folder and the start of both digests.
    """
    actual = base_model_digest(folder).hex()
    if actual != expected:
        raise ConfigError(
            f"{folder}: isn't the base model that was agreed on: its digest is "
            f"{actual[:16]}..., not {expected[:16]}..."
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises ConfigError when there is none to be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    # A damaged file surfaces as whatever the parser behind it happens to raise.
    except Exception as wrong:  # noqa: BLE001
        raise ConfigError(
            f"{folder}: its tokenizer can't be loaded ({type(wrong).__name__})"
        ) from None


def load_base_model(
    folder: Path,
    *,
    device: Device = "cpu",
    precision: Precision = "float32",
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """The causal language model in `folder`, frozen and in evaluation mode.

    Its weights go straight to `device`, which "auto" takes to be CUDA where there is
    one: moved after it got an adapter, it would train nothing.

    Args:
        folder: weights as safetensors, configuration, tokenizer.
        device: where the weights are put and the tuning is done.
        precision: of all weights that aren't quantised, and of what is computed.
        quantization: of the linear layers' weights (see `quantization`).

    Raises:
        ConfigError: not a causal language model that transformers knows, weights that
            are damaged or incomplete, a device or package that isn't there, weights that
            don't fit into its memory, or a model that `refusals` or `quantization`
            refuses.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    base_model_files(folder)
    kind = "model"
    place = chosen_device(device)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    options = quantized_loading(folder, place, dtype, quantization)
    if place.type != "cpu" or quantization != "none":
        options["device_map"] = {"": place}
    try:
        config = AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
        kind = config.model_type
        refuse_kind(config)
        model: PreTrainedModel
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except ConfigError as wrong:
        raise ConfigError(f"{folder}: {wrong}") from None
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"{folder}: the base model doesn't fit into the memory of {place}"
        ) from None
    except Exception as wrong:  # noqa: BLE001 - as for the tokenizer
        raise ConfigError(
            f"{folder}: this {kind} isn't a causal language model that can be loaded "
            f"({type(wrong).__name__})"
        ) from None
    if loaded["missing_keys"]:
        # transformers would draw them at random, differently at every party.
        raise ConfigError(
            f"{folder}: its weights lack {min(loaded['missing_keys'])}, so it isn't a "
            "whole causal language model"
        )
    settle_quantized(model, dtype)
    refuse_coupled_records(model)
    model.requires_grad_(False)
    model.train(False)
    return model


def chosen_device(device: Device) -> torch.device:
    """The device that `device` means here. Raises ConfigError: no CUDA is to be found."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (this torch is built without it)"
        raise ConfigError(f"device: cuda, but torch finds no CUDA device{built}")
    return torch.device("cuda", torch.cuda.current_device())


def check_devices(device: Device, processes: int) -> None:
    """Of a host's CUDA devices, each of its `processes` has one, unless they are to use
    none. Raises ConfigError.
    """
    import torch

    if device == "cpu" or processes == 1 or not torch.cuda.is_available():
        return
    if (devices := torch.cuda.device_count()) < processes:
        raise ConfigError(
            f"torchrun.processes is {processes}, but this host has {devices} CUDA devices"
        )


def needs_fixed_shapes(model: nn.Module) -> bool:
    """Whether a batch's shape moves gradients too far for the noise to cover it.

    Padding and grouping change the order of sums. In float32 that moves a record's
    gradient by some 5e-7 of its norm, which the sensitivity includes; as soon as
    anything below float32 takes part in the forward pass, by 4e-3 and more. True for
    16-bit weights or products, and for int8, whose rounding steps enlarge what comes
    in; False for float32 throughout, and for NF4 that is computed in float32.
    """
    import torch

    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # some backend was told something else
        exact = False
    if not exact:
        return True
    wide = (torch.float32, torch.float64)
    for module in model.modules():
        for tensor in (
            *module.parameters(recurse=False),
            *module.buffers(recurse=False),
        ):
            packed = type(tensor).__name__ == "Params4bit"
            kind = getattr(module, "compute_dtype", None) if packed else tensor.dtype
            counts = (
                isinstance(tensor, torch.nn.Parameter) or tensor.is_floating_point()
            )
            if counts and kind not in wide:
                return True
    return False


def refuse_too_long(model: PreTrainedModel, tokenizer: Any, max_tokens: int) -> None:
    """Refuse a cut beyond the model's positions, or a tokenizer beyond its vocabulary.

    Raises:
        ConfigError: names both numbers.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ConfigError(
            f"max_tokens is {max_tokens}, but the base model has {positions} positions"
        )
    rows = vocabulary(model)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} tokens, but the base model {rows}"
        )


def vocabulary(model: nn.Module) -> int:
    """Rows of the model's embedding: every token is below this."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[0])
