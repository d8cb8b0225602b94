"""A LoRA layer as one product: x (W + s B A)^T, with the gradients of A and B beside it.

PEFT's layer multiplies by W, by A and by B, scales and adds. The last three go through
memory as large as the layer's output, forwards and backwards. W + s B A is made anew in
each pass, for a hundredth of the layer's own product, and gone after it. The result is
PEFT's to float32 rounding, and every record's is rounded alike: no record changes the
weights that the others meet.

With g the gradient at the output, u = x A^T and v = g B, a record's gradients are
s v^T x of A and s g^T u of B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

Take: TypeAlias = Callable[[nn.Parameter, Tensor], None]
"""Of one pass: gets a parameter, and the gradient of every record, (rows, *its shape)."""

_HOOKS = (  # torch has no other way to ask who looks
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class FusedLora:
    """Every layer of `model` that can be is computed so until `close`.

    Args:
        model: a PeftModel in evaluation mode.
        begin: called as a layer's forward pass begins; gives who takes its records'
            gradients in the backward pass. None: autograd gets their sums as usual.
    """

    def __init__(self, model: nn.Module, begin: Callable[[], Take] | None) -> None:
        modules = list(filter(can_fuse, model.modules()))
        self._layers = [_Layer(module, begin) for module in modules]

    def __len__(self) -> int:
        return len(self._layers)

    def close(self) -> None:
        """Every layer is PEFT's again."""
        for layer in self._layers:
            layer.restore()
        self._layers = []


def can_fuse(module: nn.Module) -> bool:
    """Whether it is plain LoRA on a plain linear layer in float32, and nobody else looks.

    Below float32, W + s B A would lose what B A has below W's last bit.
    """
    if type(module) is not LoraLinear or "forward" in vars(module):
        return False
    base, active = module.get_base_layer(), module.active_adapters
    if type(base) is not nn.Linear or base.weight.dtype != torch.float32:
        return False
    if module.merged or module.disable_adapters or len(active) != 1:
        return False
    (name,) = active
    parts = (module.lora_A, module.lora_B, module.lora_dropout)
    inside = (base, *(part[name] for part in parts))
    return (
        name not in module.lora_variant
        and isinstance(module.lora_dropout[name], nn.Identity)
        and module.lora_B[name].bias is None
        and not any(getattr(m, hooks) for m in inside for hooks in _HOOKS)
    )


class _Layer:
    """What one module's products need; its `forward` while it isn't restored."""

    def __init__(self, module: Any, begin: Callable[[], Take] | None) -> None:
        (name,) = module.active_adapters
        self._module, self._begin, self._plain = module, begin, module.forward
        self._base = module.get_base_layer()
        self.a: nn.Parameter = module.lora_A[name].weight
        self.b: nn.Parameter = module.lora_B[name].weight
        self.scale: float = module.scaling[name]
        module.forward = self._forward

    def restore(self) -> None:
        del self._module.forward

    def weight(self) -> Tensor:
        """W + s B A. A sharded base has all of W only while the layer's pass lasts."""
        w, a, b = self._base.weight.detach(), self.a.detach(), self.b.detach()
        return torch.addmm(w, b, a, alpha=self.scale)

    def bias(self) -> Tensor | None:
        return self._base.bias

    def _forward(self, entered: Tensor, *inputs: Any, **options: Any) -> Any:
        if entered.dim() != 3 or entered.dtype != torch.float32 or inputs or options:
            return self._plain(entered, *inputs, **options)
        take = None if self._begin is None else self._begin()
        return _Product.apply(entered, self.a, self.b, self, take)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, layer: _Layer, take: Take | None
    ) -> Tensor:
        ctx.save_for_backward(x, a, b)
        ctx.layer, ctx.take = layer, take
        return functional.linear(x, layer.weight(), layer.bias())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b = ctx.saved_tensors
        layer, take = ctx.layer, ctx.take
        # Which parameters are tuned; autograd may have been asked for x's alone.
        join = _by_record if take is not None else _over_records
        of_a = join(g @ b, x).mul_(layer.scale) if a.requires_grad else None
        of_b = join(g, x @ a.T).mul_(layer.scale) if b.requires_grad else None
        of_x = g @ layer.weight() if ctx.needs_input_grad[0] else None
        if take is None:
            return of_x, of_a, of_b, None, None
        for parameter, rows in ((layer.a, of_a), (layer.b, of_b)):
            if rows is not None:
                take(parameter, rows)
        return of_x, None, None, None, None


def _by_record(left: Tensor, right: Tensor) -> Tensor:
    """left^T right of every row: (rows, m, n)."""
    return torch.bmm(left.transpose(1, 2), right)


def _over_records(left: Tensor, right: Tensor) -> Tensor:
    """The same, summed over rows: (m, n)."""
    return left.flatten(0, 1).T @ right.flatten(0, 1)
