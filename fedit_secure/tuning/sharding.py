"""A base model that is split over all processes of a job, for it fits into none (FSDP2).

Each process keeps a part of every layer's frozen weights. A pass gathers a layer when it
comes to it, and lets go of it afterwards. The adapter is whole in every process, so the
hooks that make a gradient per record see what they see without it.

The processes have to do the same passes in the same order: layers are gathered by place,
and a process that is one layer behind would get another layer's weights.
"""

from __future__ import annotations

import torch
from torch import nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import adapter_parameters

_MARK = "sharded_by_fedit"


def shard_base(model: nn.Module, device: torch.device) -> None:
    """Split the frozen weights of a PeftModel over the default group, in place.

    Args:
        model: whole, with its adapter, on the host; the same in all processes.
        device: where this process computes.

    Raises:
        ConfigError: transformers doesn't mark this model's layers.
    """
    from torch.distributed import get_world_size
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError("the base model's layers can't be split (torchrun.shard)")
    mesh = init_device_mesh(device.type, (get_world_size(),))
    whole = {parameter for _, parameter in adapter_parameters(model)}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    # The embedding and the output head: what isn't in a layer.
    fully_shard(model, mesh=mesh, ignored_params=whole)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    setattr(model, _MARK, True)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_base` was called on the model."""
    return hasattr(model, _MARK)
