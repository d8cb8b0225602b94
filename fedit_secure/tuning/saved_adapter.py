"""A finished adapter: plain LoRA, from a PEFT folder or a certified state. No torch, until
it is put on a model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from fedit_secure.errors import ConfigError
from fedit_secure.federation.adapter_digests import adapter_digest
from fedit_secure.federation.durable import read_file
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.tuning.job import Layout, LoraConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "megatron_core", "peft_type", "peft_version", "qalora_group_size",
    "revision", "task_type",
})  # fmt: skip
_READ = frozenset({"r", "lora_alpha", "lora_dropout", "target_modules"})
_STARTS = (True, False, "gaussian", "orthogonal")
"""Initialisations that leave the base model's own weights as they are."""


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """LoRA and its values.

    Attributes:
        name: where it is from, for people.
        lora: its rank, scale and targets.
        layout: its tensors, sorted by key.
        vector: float32, flat, in the layout's order.
        base_model: the name or path of the model that it adapts, where it says one.
    """

    name: str
    lora: LoraConfig
    layout: Layout
    vector: npt.NDArray[np.float32]
    base_model: str | None = None

    @property
    def digest(self) -> str:
        """The adapter's name in an audit, in hex."""
        sizes = [math.prod(shape) for _, shape in self.layout]
        parts = np.split(self.vector, np.cumsum(sizes)[:-1])
        return adapter_digest(
            (key, part.reshape(shape))
            for (key, shape), part in zip(self.layout, parts, strict=True)
        )

    @classmethod
    def of_state(cls, name: str, lora: LoraConfig, state: GridState) -> SavedAdapter:
        """The adapter of a global state."""
        return cls(name, lora, state.adapter_layout, to_float32(state))


def read_peft_adapter(folder: Path) -> SavedAdapter:
    """The adapter in a folder that PEFT saved.

    Nothing of it is run: the configuration is JSON, the weights are safetensors.

    Raises:
        ConfigError: one sentence that names the file: it's missing or damaged, isn't
            LoRA, or has a setting that changes what the adapter does (DoRA, rank-stabilised
            scaling, modules saved whole) and that this test would ignore.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such adapter folder")
    lora, base_model = _read_config(folder / _CONFIG)
    tensors = _read_weights(folder / _WEIGHTS)
    keys = sorted(tensors)
    layout = tuple((key, tuple(tensors[key].shape)) for key in keys)
    flat = [tensors[key].reshape(-1) for key in keys]
    vector = np.concatenate(flat).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ConfigError(f"{folder / _WEIGHTS}: holds a value that isn't finite")
    return SavedAdapter(str(folder), lora, layout, vector, base_model)


def put_on(model: nn.Module, adapter: SavedAdapter) -> PeftModel:
    """Put the adapter on a base model, in place, in evaluation mode.

    Raises ConfigError that names the adapter, and the first tensor that doesn't fit.
    """
    from fedit_secure.tuning.adapter import attach_adapter, check_layout, write_adapter

    try:
        tuned = attach_adapter(model, adapter.lora)
        check_layout(tuned, adapter.layout)
        write_adapter(tuned, adapter.vector)
    except ConfigError as wrong:
        raise ConfigError(f"the adapter {adapter.name}: {wrong}") from None
    return tuned


def _read_config(path: Path) -> tuple[LoraConfig, str | None]:
    try:
        fields = json.loads(read_file(path, "the adapter's file", limit=4 << 20))
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: isn't valid JSON") from None
    if not isinstance(fields, dict) or fields.get("peft_type") != "LORA":
        raise ConfigError(f"{path}: isn't the configuration of a LoRA adapter")
    _refuse_unknown(path, fields)
    targets = fields.get("target_modules")
    if isinstance(targets, list):
        targets = tuple(sorted(map(str, targets)))
    known = {
        "rank": fields.get("r"),
        "alpha": fields.get("lora_alpha"),
        "dropout": fields.get("lora_dropout", 0.0),
        "targets": targets,
    }
    try:
        lora = LoraConfig.model_validate(known)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        where = str(first["loc"][0]) if first["loc"] else "targets"
        raise ConfigError(
            f"{path}: its {where} can't be used: {first['msg']}"
        ) from None
    base = fields.get("base_model_name_or_path")
    return lora, base if isinstance(base, str) and base else None


def _refuse_unknown(path: Path, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if key in _HARMLESS | _READ or value in (None, False, {}, [], "none"):
            continue
        if key == "init_lora_weights" and value in _STARTS:
            continue
        raise ConfigError(
            f"{path}: {key} is set, and what it changes isn't tested here: plain LoRA is"
        )


def _read_weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    data = read_file(path, "the adapter's file")
    try:
        tensors = load(data)
    # Beside its own error: a number format that numpy doesn't have.
    except (SafetensorError, KeyError, TypeError, ValueError) as wrong:
        raise ConfigError(
            f"{path}: isn't a safetensors file of float32 or float16 tensors "
            f"({type(wrong).__name__})"
        ) from None
    for key, tensor in tensors.items():
        if tensor.dtype not in (np.float16, np.float32):
            raise ConfigError(
                f"{path}: {key} is {tensor.dtype}, not float32 or float16"
            )
    if not tensors:
        raise ConfigError(f"{path}: has no tensors")
    return tensors
