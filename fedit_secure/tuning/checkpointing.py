"""Gradient checkpointing: layers that keep their input alone, and run again backwards.

It trades a third more time for the memory of a deep model's activations, and changes no
gradient. We wrap the layers that transformers marks for it, instead of switching
transformers' own on: that one runs only in training mode, where some models drop out
whatever their adapter says.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedit_secure.errors import ConfigError

_MARK = "recomputed_by_fedit"


def checkpoint_layers(model: nn.Module) -> None:
    """Have every layer of `model` recomputed in the backward pass, in place.

    The kind is torch's reentrant one: under the other, the hooks would see what a layer
    computed the first time, and keep all of it in memory.

    Raises:
        ConfigError: transformers doesn't offer it for this model.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError("the base model's layers can't be recomputed (checkpointing)")
    if is_checkpointed(model):
        return
    for layer in layers:
        layer.forward = _recomputed(layer.forward)
        setattr(layer, _MARK, True)
    # torch goes back through a recomputed layer only if its input asks for a gradient.
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(_ask_for_gradient)


def is_checkpointed(model: nn.Module) -> bool:
    """Whether `checkpoint_layers` was called on the model."""
    return any(hasattr(module, _MARK) for module in model.modules())


def _recomputed(forward: Any) -> Any:
    def run(*inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **options)
        return checkpoint(partial(forward, **options), *inputs, use_reentrant=True)

    return run


def _ask_for_gradient(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
    if torch.is_grad_enabled():
        output.requires_grad_()
