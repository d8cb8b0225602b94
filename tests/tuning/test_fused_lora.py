"""Fused layers compute PEFT's function and its gradients, or leave a layer alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel
from tiny_models import VOCABULARY, tuned_model
from torch import Tensor, nn

from fedit_secure.tuning.adapter import adapter_parameters, tune_only
from fedit_secure.tuning.dropout import RecordDropout
from fedit_secure.tuning.fused_lora import FusedLora, _Product, can_fuse
from fedit_secure.tuning.record_gradients import RecordGradients

ROWS, TOKENS, SCALE = 3, 5, 2.0


def tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (4, 9), generator=torch.manual_seed(1))


def one_layer(model: PeftModel) -> nn.Module:
    return model.base_model.model.model.layers[0].self_attn.q_proj


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def double() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, W, A, B) of a layer from 7 to 6 features with rank 2."""
    torch.manual_seed(0)
    x, a, b = drawn(ROWS, TOKENS, 7), drawn(2, 7), drawn(6, 2)
    return x.requires_grad_(), drawn(6, 7), a.requires_grad_(), b.requires_grad_()


def layer_of(w: Tensor, a: Tensor, b: Tensor) -> SimpleNamespace:
    bias = drawn(6)

    def weight() -> Tensor:
        return (w + SCALE * b @ a).detach()

    return SimpleNamespace(weight=weight, bias=lambda: bias, a=a, b=b, scale=SCALE)


def test_its_gradients_are_those_of_the_function() -> None:
    """Against finite differences, in float64."""
    x, w, a, b = double()
    bias = drawn(6)  # the same at every call

    def product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        layer = layer_of(w, a, b)
        layer.bias = lambda: bias
        return _Product.apply(x, a, b, layer, None)

    assert torch.autograd.gradcheck(product, (x, a, b))


def test_every_record_has_the_gradient_that_it_has_alone() -> None:
    x, w, a, b = double()
    layer, found = layer_of(w, a, b), {}
    weigh = drawn(ROWS, TOKENS, 6)

    def take(parameter: Tensor, rows: Tensor) -> None:
        found[id(parameter)] = rows

    out = _Product.apply(x, a, b, layer, take)
    (of_x,) = torch.autograd.grad((out.tanh() * weigh).sum(), x)
    for row in range(ROWS):
        alone = x[row].detach().requires_grad_()
        plain = alone @ w.T + SCALE * (alone @ a.T) @ b.T + layer.bias()
        loss = (plain.tanh() * weigh[row]).sum()
        by_x, by_a, by_b = torch.autograd.grad(loss, (alone, a, b))
        for ours, theirs in (
            (of_x[row], by_x),
            (found[id(a)][row], by_a),
            (found[id(b)][row], by_b),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_a_model_computes_the_same_and_is_left_as_it_was(family: str) -> None:
    model, ids = tuned_model(family, layers=2), tokens()
    parameters = [p for _, p in adapter_parameters(model)]

    def passed() -> tuple[Tensor, ...]:
        logits = model(input_ids=ids).logits
        return logits, *torch.autograd.grad(logits.square().mean(), parameters)

    plain = passed()
    fused = FusedLora(model, None)
    assert len(fused) == 14
    for ours, theirs in zip(passed(), plain, strict=True):
        assert float((ours - theirs).detach().norm()) < 2e-4 * float(
            theirs.detach().norm()
        )
    fused.close()
    assert not any("forward" in vars(module) for module in model.modules())
    for ours, theirs in zip(passed(), plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("tuned", "kept"), [("A", "lora_A"), ("B", "lora_B")])
def test_a_frozen_factor_takes_no_row(tuned: str, kept: str) -> None:
    model = tuned_model()
    tune_only(model, (tuned,))
    hooks = RecordGradients(model)
    rows = hooks.rows(model(input_ids=tokens()).logits.square().sum(), 4)
    hooks.close()
    named = adapter_parameters(model)
    assert len(rows) == len(named) == 7
    assert all(kept in name for name, _ in named)


def test_a_layer_that_is_called_twice_has_the_sum() -> None:
    model = tuned_model()
    layer, parameters = one_layer(model), [p for _, p in adapter_parameters(model)]
    plain = layer.forward

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + self.inner(x * 0.5)

    model.base_model.model.model.layers[0].self_attn.q_proj = Twice()
    hooks = RecordGradients(model)
    assert layer.forward != plain
    loss = model(input_ids=tokens()).logits.square().mean()
    rows = hooks.rows(loss, 4)
    hooks.close()
    loss = model(input_ids=tokens()).logits.square().mean()
    for row, expected in zip(rows, torch.autograd.grad(loss, parameters), strict=True):
        gap = row.sum(0).reshape(expected.shape) - expected
        assert float(gap.norm()) < 2e-4 * float(expected.norm())


def _hooked(model: PeftModel) -> None:
    one_layer(model).base_layer.register_forward_hook(lambda *_: None)


def _wrapped(model: PeftModel) -> None:
    layer = one_layer(model)
    layer.forward = layer.forward


def _dropping(model: PeftModel) -> None:
    one_layer(model).lora_dropout["default"] = RecordDropout(0.5, "q")


def _coarse(model: PeftModel) -> None:
    one_layer(model).base_layer.to(torch.bfloat16)


def _second(model: PeftModel) -> None:
    model.add_adapter("other", PeftLora(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "other"])


def _merged(model: PeftModel) -> None:
    one_layer(model).merge()


def _switched_off(model: PeftModel) -> None:
    one_layer(model).enable_adapters(False)


@pytest.mark.parametrize(
    "change", [_hooked, _wrapped, _dropping, _coarse, _second, _merged, _switched_off]
)
def test_any_other_layer_is_left_alone(change: Callable[[PeftModel], None]) -> None:
    model = tuned_model()
    assert can_fuse(one_layer(model))
    change(model)
    assert not can_fuse(one_layer(model))
    before = vars(one_layer(model)).get("forward")
    fused = FusedLora(model, None)
    assert vars(one_layer(model)).get("forward") == before
    fused.close()
    assert vars(one_layer(model)).get("forward") == before


def test_a_layer_of_another_kind_is_left_alone() -> None:
    """GPT-2's Conv1D keeps its weight the other way round."""
    assert len(FusedLora(tuned_model("gpt2"), None)) == 0


def test_what_does_not_look_like_records_goes_the_plain_way() -> None:
    model = tuned_model()
    fused = FusedLora(model, None)
    flat = torch.randn(6, 32)
    layer = one_layer(model)
    assert torch.equal(layer(flat), type(layer).forward(layer, flat))
    fused.close()
