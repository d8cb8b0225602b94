"""A gradient for every record of a physical batch, by Opacus's hooks.

After any failure the hooks and everything they left behind are thrown away and built
again: what a half-finished pass leaves would mix the rows of two batches.
"""

from __future__ import annotations

from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import adapter_parameters

# What Opacus keeps on a hooked module between the forward and the backward pass.
_MODULE_STATE = ("activations", "max_batch_len")


class RecordGradients:
    """Hooks on the adapter of `model`; call `close` when done.

    Args:
        model: a PeftModel whose trainable parameters are LoRA linear layers in float32.

    Raises:
        ConfigError: as `adapter_parameters`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        named = adapter_parameters(model)
        self._keys = [key for key, _ in named]
        self._parameters: list[Any] = [p for _, p in named]
        own = {id(p) for p in self._parameters}
        self._modules = [
            module
            for module in model.modules()
            if any(id(p) in own for p in module.parameters(recurse=False))
        ]
        self._embedded: Tensor | None = None
        self._attach()

    def _attach(self) -> None:
        embedding: Any = self._model.get_input_embeddings()  # type: ignore[operator]
        self._handle = embedding.register_forward_hook(self._hold_embedded)
        for module in self._modules:
            # Opacus records a module in training mode only. These have no other use
            # for it; the frozen rest stays in evaluation mode.
            module.train()
        self._hooks = GradSampleHooks(self._model, loss_reduction="sum")

    def _hold_embedded(self, _module: nn.Module, _input: Any, output: Tensor) -> Tensor:
        self._embedded = output.detach().requires_grad_()
        return self._embedded

    def rows(self, loss: Tensor, records: int) -> list[Tensor]:
        """Backpropagate `loss`, a sum over records; take each record's gradient.

        Returns:
            For every adapter tensor, in the flat vector's order, a float32 tensor of
            shape (records, its size).

        Raises:
            ConfigError: an adapter tensor didn't get one row per record.
        """
        if self._embedded is None:
            raise ConfigError("the base model doesn't embed its tokens as it says")
        # Asked for the gradient at the embedding alone, autograd passes every hooked
        # module on its way there and skips the parameters' own gradients, summed over
        # records, which nobody needs: 7 % of a step.
        torch.autograd.grad(loss, self._embedded)
        rows = []
        for key, parameter in zip(self._keys, self._parameters, strict=True):
            row = parameter.grad_sample
            if not isinstance(row, Tensor) or row.shape[0] != records:
                raise ConfigError(
                    f"the base model doesn't show {key} one row per record, so it "
                    "can't be tuned privately"
                )
            rows.append(row.reshape(records, -1))
        self.clear()
        return rows

    def clear(self) -> None:
        """Forget the gradients of the last physical batch."""
        self._embedded = None
        for parameter in self._parameters:
            parameter.grad_sample = None

    def rebuild(self) -> None:
        """Throw away all hooks and everything they hold, and attach new ones."""
        self.close()
        self._attach()

    def close(self) -> None:
        """Take the hooks off the model; every trace of them goes."""
        self._hooks.cleanup()
        self._handle.remove()
        self._embedded = None
        for module in self._modules:
            for name in _MODULE_STATE:
                module.__dict__.pop(name, None)
            module.eval()


def clip_rows(rows: list[Tensor], clip: float) -> tuple[list[Tensor], int]:
    """Scale every record's gradient to norm at most `clip`, in float32 and in place.

    A record whose gradient isn't finite contributes zero, as if it weren't there: one
    NaN would otherwise turn the whole update into NaN.

    Args:
        rows: for every adapter tensor, (records, size).
        clip: C.

    Returns:
        The rows, and how many records were zeroed. The count must not leave the silo.
    """
    norms = torch.stack([row.norm(dim=1) for row in rows], dim=1).norm(dim=1)
    finite = norms.isfinite()
    zeroed = int((~finite).sum())
    if zeroed:
        for row in rows:
            row[~finite] = 0.0
        norms[~finite] = 0.0
    # As Opacus: the constant keeps a clipped row's rounded norm below C.
    factors = (clip / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1)
    for row in rows:
        row.mul_(factors)
    return rows, zeroed
