"""The LoRA adapter as one ordered, flat float32 vector, and back.

Order: adapter tensors sorted by their key in `adapter_model.safetensors`, each one
flattened in row-major order. The keys are PEFT's own, so a folder that stores the
tensors under them opens with `PeftModel.from_pretrained`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import Factor, is_of
from fedit_secure.tuning.dropout import separate_dropouts
from fedit_secure.tuning.job import Layout, LoraConfig, layout_length

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_NAME = "default"
FloatVector = npt.NDArray[np.float32]


def peft_config(lora: LoraConfig) -> Any:
    """PEFT's own configuration of `lora`: plain LoRA on a causal language model."""
    import peft

    # PEFT writes "int" and takes both; a whole number stays one in its file.
    alpha: Any = int(lora.alpha) if lora.alpha.is_integer() else lora.alpha
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
        init_lora_weights=True,
    )


def attach_adapter(model: nn.Module, lora: LoraConfig) -> PeftModel:
    """Freeze `model` and put a LoRA adapter on it, in place, in evaluation mode.

    Move the model to its device first: a later move would leave the optimiser with
    parameters that nothing reads.

    Raises:
        ConfigError: the model carries an adapter already, no module matches the
            targets, or one of them can't be tuned per record (see
            `adapter_parameters`).
    """
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ConfigError(
            "the base model carries an adapter already: merge it into the weights, or "
            "take it out of the folder"
        )
    with warnings.catch_warnings():
        # PEFT tells that it sets fan_in_fan_out for Conv1D layers: that is right.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        # PEFT asks transformers in a way that transformers will drop one day.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        try:
            tuned: PeftModel = peft.get_peft_model(model, peft_config(lora))
        except ValueError as wrong:
            reason = re.sub(r"^\[PEFT[^\]]*\] ", "", str(wrong).strip())
            reason = reason.split(". ")[0].splitlines()[0].rstrip(".")
            raise ConfigError(f"LoRA doesn't fit the base model: {reason}") from None
    adapter_parameters(tuned)
    separate_dropouts(tuned)
    tuned.eval()
    return tuned


def peft_key(parameter: str) -> str:
    """The key in `adapter_model.safetensors` of a `PeftModel`'s parameter name."""
    return parameter.replace(f".{ADAPTER_NAME}.", ".")


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every trainable parameter with its key, in the flat vector's order.

    Raises:
        ConfigError: nothing is trainable, or something is that isn't the weight of a
            LoRA linear layer in float32: DoRA's magnitudes, LoRA on embeddings, and
            output heads whose gradient rows are tokens instead of records.
    """
    linear = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.endswith((f".lora_A.{ADAPTER_NAME}", f".lora_B.{ADAPTER_NAME}"))
    }
    head = getattr(model, "get_output_embeddings", lambda: None)()
    head_parameters = {id(p) for p in head.parameters()} if head is not None else set()
    found = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in head_parameters:
            raise ConfigError(f"the output head can't be tuned privately ({name})")
        if id(parameter) not in linear:
            raise ConfigError(
                f"{name} isn't LoRA on a linear layer: it can't be tuned privately"
            )
        if parameter.dtype != torch.float32:
            raise ConfigError(f"{name} is {parameter.dtype}, but must be float32")
        found.append((peft_key(name), parameter))
    if not found:
        raise ConfigError("the model has no adapter to tune")
    return sorted(found, key=lambda item: item[0])


def tune_only(model: nn.Module, tuned: Sequence[Factor]) -> None:
    """Freeze the other LoRA factor: to all else here it is one more frozen weight.

    `adapter_parameters`, `read_adapter` and `write_adapter` are of what isn't frozen.
    """
    for name, parameter in model.named_parameters():
        if f".{ADAPTER_NAME}." in name:
            parameter.requires_grad_(is_of(peft_key(name), tuned))


def adapter_layout(model: nn.Module) -> Layout:
    """Ordered (key, shape) of the adapter's tensors."""
    return tuple((key, tuple(p.shape)) for key, p in adapter_parameters(model))


def read_adapter(model: nn.Module) -> FloatVector:
    """A copy of the adapter as one flat float32 vector."""
    flat = [p.detach().reshape(-1) for _, p in adapter_parameters(model)]
    return torch.cat(flat).cpu().numpy().astype(np.float32, copy=True)


def write_adapter(model: nn.Module, vector: FloatVector) -> None:
    """Set the adapter from one flat float32 vector.

    Raises:
        ConfigError: the vector's length isn't the adapter's, or a value isn't finite.
    """
    parameters = adapter_parameters(model)
    length = sum(p.numel() for _, p in parameters)
    if vector.shape != (length,):
        raise ConfigError(
            f"the adapter has {length} coordinates, not {vector.size}: "
            "it doesn't match the base model"
        )
    if not np.isfinite(vector).all():
        raise ConfigError("the adapter holds a value that isn't finite")
    start = 0
    with torch.no_grad():
        for _, parameter in parameters:
            stop = start + parameter.numel()
            part = np.ascontiguousarray(vector[start:stop], np.float32)
            parameter.copy_(torch.from_numpy(part.copy()).view(parameter.shape))
            start = stop


def check_layout(model: nn.Module, layout: Layout) -> None:
    """Refuse an adapter whose tensors aren't the ones `layout` names, in that order.

    Raises:
        ConfigError: names the first tensor that differs.
    """
    ours = adapter_layout(model)
    for mine, theirs in zip(ours, layout, strict=False):
        if mine != theirs:
            raise ConfigError(
                f"the layout names {theirs[0]} {theirs[1]} where the base model has "
                f"{mine[0]} {mine[1]}"
            )
    if len(ours) != len(layout):
        raise ConfigError(
            f"the layout names {len(layout)} tensors ({layout_length(layout)} "
            f"coordinates), the base model has {len(ours)} ({layout_length(ours)})"
        )


def initial_adapter(
    model: nn.Module, lora: LoraConfig, seed: int
) -> tuple[Layout, FloatVector]:
    """The adapter that a federation starts from; `model` is left as it was.

    A is drawn uniformly as PEFT draws it (Kaiming, a=sqrt(5)) from a generator of its
    own, B is zero: the adapted model equals the base model. It depends on the seed and
    the shapes alone, never on records. A charter names the vector's digest, so other
    torch versions needn't draw the same values.
    """
    tuned = attach_adapter(model, lora)
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for key, parameter in adapter_parameters(tuned):
                if ".lora_A." in key:
                    nn.init.kaiming_uniform_(
                        parameter, a=math.sqrt(5), generator=generator
                    )
                else:
                    parameter.zero_()
        return adapter_layout(tuned), read_adapter(tuned)
    finally:
        tuned.unload()
