"""What one forward pass does: the operations it runs, and what each adapter sees.

Two records that share nothing can still touch each other: through an operation over the
batch, or through one that turns a difference in rounding into a different choice. Such
operations are seen here whatever module they hide in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.batches import PhysicalBatch
from fedit_secure.tuning.record_loss import label_logits

_TOLERANCE = 1e-3  # relative, as in `preflight`

# ATen's names, of operations on floating point values.
_REASONS = {
    "picks by rank, where rounding decides ties": (
        "topk",
        "sort",
        "argsort",
        "msort",
        "kthvalue",
        "median",
        "nanmedian",
        "mode",
        "argmax",
        "argmin",
    ),
    "rounds values to a grid, where rounding decides ties": (
        "round",
        "quantize_per_tensor",
        "quantize_per_channel",
        "quantize_per_tensor_dynamic",
    ),
    "normalises over the batch": (
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "cudnn_batch_norm",
        "miopen_batch_norm",
    ),
    "draws random numbers": (
        "native_dropout",
        "bernoulli",
        "bernoulli_",
        "multinomial",
        "normal_",
        "normal",
        "uniform_",
        "uniform",
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "exponential_",
    ),
}
_REASON_OF = {name: reason for reason, names in _REASONS.items() for name in names}


class _Operations(TorchDispatchMode):
    """Notes the first operation of `_REASON_OF`, and the module that runs it."""

    def __init__(self, within: list[str]) -> None:
        super().__init__()
        self._within = within
        self.found: tuple[str, str] | None = None

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        outputs = result if isinstance(result, tuple | list) else (result,)
        if (
            self.found is None
            and name in _REASON_OF
            and any(
                isinstance(value, Tensor) and value.is_floating_point()
                for value in (*args, *outputs)
            )
        ):
            self.found = (name, self._within[-1] if self._within else "")
        return result


@torch.no_grad()
def refuse_forward(model: nn.Module, tokens: int, vocabulary: int) -> None:
    """Run two synthetic records, equal up to their middle, and refuse what is unfit.

    Args:
        model: a PeftModel whose adapter isn't zero.
        tokens: length of the two records, at least 2.
        vocabulary: tokens are below this.

    Raises:
        ConfigError: names the operation and its module, or the adapter tensor that
            takes no part or sees something else than records, or says that the model
            isn't causal.
    """
    ours = _linears(model)
    seen: dict[str, set[int]] = {key: set() for key in ours.values()}
    within: list[str] = []

    def leave(*_: Any) -> None:  # a hook's result would replace the module's
        within.pop()

    def look(inputs: tuple[Any, ...], key: str) -> None:
        seen[key].add(inputs[0].shape[0] if inputs[0].dim() > 2 else -1)

    handles = []
    for name, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(lambda *_, n=name: within.append(n)),
            module.register_forward_hook(leave, always_call=True),
        ]
    for module, key in ours.items():
        handles.append(
            module.register_forward_pre_hook(lambda _, x, key=key: look(x, key))
        )
    operations = _Operations(within)
    try:
        with operations:
            logits = label_logits(model, _twins(tokens, vocabulary), selective=False)
    finally:
        for handle in handles:
            handle.remove()
    _refuse_operation(operations.found)
    for key, shapes in seen.items():
        _refuse_view(key, shapes)
    first, second = logits.float().chunk(2)
    gap, size = float((first - second).norm()), float(first.norm())
    if not gap <= _TOLERANCE * size:
        raise ConfigError(
            "the base model isn't causal: a token changes with those after it, padding "
            "included, so it can't be tuned privately"
        )


def _linears(model: nn.Module) -> dict[nn.Module, str]:
    """Every module that owns an adapter tensor, with that tensor's key."""
    keys = {id(parameter): key for key, parameter in adapter_parameters(model)}
    return {
        module: keys[id(parameter)]
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if id(parameter) in keys
    }


def _twins(tokens: int, vocabulary: int) -> PhysicalBatch:
    """Two records that differ in their second half; the first half's logits count."""
    random = np.random.default_rng(2)
    batch = random.integers(0, vocabulary, (2, tokens))
    shared = max(1, tokens // 2)
    batch[1, :shared] = batch[0, :shared]
    # Different for certain, whatever was drawn.
    batch[1, shared:] = (batch[0, shared:] + 1) % vocabulary
    predicts = np.zeros(batch.shape, np.bool_)
    predicts[:, :shared] = True
    weights = np.full(2 * shared, 1 / shared, np.float32)
    return PhysicalBatch(np.arange(2), batch, predicts, weights)


def _refuse_operation(found: tuple[str, str] | None) -> None:
    if found is not None:
        operation, module = found
        raise ConfigError(
            f"the base model {_REASON_OF[operation]} ({operation} in module "
            f"{module!r}), which mixes records: it can't be tuned privately"
        )


def _refuse_view(key: str, rows: set[int]) -> None:
    """`rows`: how many rows the tensor's module saw, call by call."""
    if not rows:
        raise ConfigError(
            f"the adapter tensor {key} takes no part in the base model's forward pass: "
            "leave its module out of the targets"
        )
    if rows != {2}:
        raise ConfigError(
            f"the adapter tensor {key} sees single tokens, not one row per record, so "
            "it can't be tuned privately: leave its module out of the targets"
        )
