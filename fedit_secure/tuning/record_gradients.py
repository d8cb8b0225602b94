"""A gradient for every record of a physical batch: Opacus's, layer by layer.

Most LoRA layers are computed by `fused_lora`, which gives the rows itself. For the others,
Opacus's sampler of a linear layer makes one row per record of what goes into the layer
and of the gradient at its output. We hand it both from a hook on the output itself.
Opacus's own hooks keep state on modules, which a pass that fails leaves behind, to be
mixed with the next batch's; ours keep theirs in the graph of the pass, and it ends with
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.fused_lora import FusedLora, Take

_ROWS_OF_LINEAR = GradSampleHooks.GRAD_SAMPLERS[nn.Linear]


class RecordGradients:
    """Hooks on the adapter of `model`; call `close` when done.

    Args:
        model: a PeftModel whose trainable parameters are LoRA linear layers in float32.
        checkpointed: the model recomputes its layers in the backward pass, which takes
            one through torch's `backward` (see `checkpointing`).

    Raises:
        ConfigError: as `adapter_parameters`.
    """

    def __init__(self, model: nn.Module, *, checkpointed: bool = False) -> None:
        named = adapter_parameters(model)
        self._keys = [key for key, _ in named]
        self._parameters: list[Any] = [p for _, p in named]
        self._checkpointed = checkpointed
        self._embedded: Tensor | None = None
        # One pass, and what belongs to it: a hook of a pass that failed finds that it
        # isn't the current one any more.
        self._pass: dict[int, Tensor] = {}
        own = {id(p) for p in self._parameters}
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        self._fused = FusedLora(model, self._begin)
        self._handles = [embedding.register_forward_hook(self._hold_embedded)]
        for module in model.modules():
            if any(id(p) in own for p in module.parameters(recurse=False)):
                self._handles.append(module.register_forward_hook(self._watch))

    def _hold_embedded(self, _module: nn.Module, _input: Any, output: Tensor) -> Tensor:
        self._embedded = output.detach().requires_grad_()
        return self._embedded

    def _watch(
        self, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor
    ) -> None:
        if not out.requires_grad:  # evaluation, or a checkpoint's first run
            return
        entered, take = inputs[0].detach(), self._begin()

        def made(gradient: Tensor) -> None:
            rows: Any = _ROWS_OF_LINEAR(module, [entered], gradient.detach())
            for parameter, row in rows.items():
                take(parameter, row)

        out.register_hook(made)

    def _begin(self) -> Take:
        rows = self._pass

        def take(parameter: nn.Parameter, row: Tensor) -> None:
            # A layer that is called twice in one pass has the sum of both.
            before = rows.get(id(parameter))
            rows[id(parameter)] = row if before is None else before + row

        return take

    def rows(self, loss: Tensor, rows: int) -> list[Tensor]:
        """Backpropagate `loss`, a sum over records; take each record's gradient.

        Args:
            loss: a scalar, of a forward pass since the last call.
            rows: the physical batch's, those that fill up a fixed shape included.

        Returns:
            For every adapter tensor, in the flat vector's order, a float32 tensor of
            shape (rows, its size).

        Raises:
            ConfigError: an adapter tensor didn't get one row per record.
        """
        if self._embedded is None:
            raise ConfigError("the base model doesn't embed its tokens as it says")
        if self._checkpointed:
            loss.backward()  # type: ignore[no-untyped-call]
            for parameter in self._parameters:
                parameter.grad = None
        else:
            # Asked for the gradient at the embedding alone, autograd passes every layer
            # on its way there and skips the parameters' own gradients, summed over
            # records, which nobody needs: 7 % of a step.
            torch.autograd.grad(loss, self._embedded)
        found = []
        for key, parameter in zip(self._keys, self._parameters, strict=True):
            row = self._pass.get(id(parameter))
            if row is None or row.shape != (rows, *parameter.shape):
                raise ConfigError(
                    f"the base model doesn't show {key} one row per record, so it "
                    "can't be tuned privately"
                )
            found.append(row.reshape(rows, -1))
        self.clear()
        return found

    def clear(self) -> None:
        """Forget everything of the last pass; also what a failed one may still add."""
        self._embedded = None
        self._pass = {}
        for parameter in self._parameters:
            parameter.grad = None

    def close(self) -> None:
        """Take the hooks off the model; every trace of them goes."""
        for handle in self._handles:
            handle.remove()
        self._fused.close()
        self.clear()


def summed_gradient(
    loss: Tensor, parameters: list[nn.Parameter], *, checkpointed: bool = False
) -> Tensor:
    """The gradient of `loss` as plain autograd has it, float32 of shape (d,)."""
    if not checkpointed:
        return _flat(torch.autograd.grad(loss, parameters))
    loss.backward()  # type: ignore[no-untyped-call]
    found = _flat([p.grad for p in parameters if p.grad is not None])
    for parameter in parameters:
        parameter.grad = None
    return found


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def clip_units(
    rows: list[Tensor], owners: Tensor | None, units: int, clip: float
) -> tuple[Tensor, int]:
    """The sum of the units' gradients, each one scaled to norm at most `clip`.

    A unit's gradient is the sum of its records'. One that isn't finite contributes
    zero, as if it weren't there: a NaN would otherwise turn the whole update into NaN.

    Args:
        rows: for every adapter tensor, float32 (rows, size); overwritten. What is
            beyond the records is dropped.
        owners: int64, shape (records,): the unit that each record belongs to, counted
            from 0; None where the records are the units.
        units: how many there are.
        clip: C.

    Returns:
        float64, shape (d,): rows clipped in float32, summed in float64. And how many
        units were zeroed, which must not leave the silo.
    """
    if owners is None:
        rows = [row[:units] for row in rows]
    else:
        rows = [
            row.new_zeros(units, row.shape[1]).index_add_(0, owners, row[: len(owners)])
            for row in rows
        ]
    norms = torch.stack([row.norm(dim=1) for row in rows], dim=1).norm(dim=1)
    finite = norms.isfinite()
    zeroed = units - int(finite.sum())
    if zeroed:
        for row in rows:
            row[~finite] = 0.0
        norms[~finite] = 0.0
    # As Opacus. Rounded in float32, a clipped row's norm may exceed C by a little,
    # which `privacy.sensitivity` covers.
    factors = (clip / (norms + 1e-6)).clamp(max=1.0).unsqueeze(1)
    parts = [row.mul_(factors).sum(dim=0, dtype=torch.float64) for row in rows]
    return torch.cat(parts), zeroed
