"""An unfit model shows before the first record is sampled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_models import SHAPES, VOCABULARY, tuned_model
from torch import nn

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.tuning.adapter import adapter_parameters, read_adapter
from fedit_secure.tuning.forward_trace import refuse_forward
from fedit_secure.tuning.preflight import (
    check_model,
    fitting_packing,
    synthetic_examples,
)


@pytest.mark.parametrize("family", SHAPES)
def test_fit_models_pass_and_keep_their_adapter(family: str) -> None:
    model = tuned_model(family)
    before = read_adapter(model)
    assert check_model(model, before, 64)
    assert np.array_equal(read_adapter(model), before)


class Coupling(nn.Module):
    """Subtracts the batch's mean: every record sees every other one."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y - y.mean(dim=(0, 1), keepdim=True)


class LookingAhead(nn.Module):
    """Adds the mean over all positions, padding included."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y + y.mean(dim=1, keepdim=True)


class OverTheBatch(nn.Module):
    """Does something to all records together, from some size of the batch on."""

    def __init__(self, inner: nn.Module, how: str, records: int = 1, tokens: int = 1):
        super().__init__()
        self.inner, self.how, self.size = inner, how, (records, tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        if y.shape[0] < self.size[0] or y.shape[1] < self.size[1]:
            return y
        if self.how == "largest":
            return y / y.abs().amax(dim=(0, 1), keepdim=True)
        if self.how == "mean":
            return y - y.mean(dim=0, keepdim=True)
        if self.how == "between":
            return torch.cat([y[:1], y[1:-1] + y[:1].detach(), y[-1:]])
        if self.how == "best":
            best = y.flatten(0, 1).topk(3, dim=0).values
            return torch.where(y >= best[-1], y, 0.5 * y)
        if self.how == "norm":
            flat = nn.functional.batch_norm(y.flatten(0, 1), None, None, training=True)
            return flat.view(y.shape)
        if self.how == "noise":
            return y + 0.01 * torch.randn_like(y)
        if self.how == "dropout":
            return nn.functional.dropout(y, 0.1)
        return y + ((y * 100).round() / 100 - y).detach()


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        (Coupling, "mixes the records of a batch"),
        (LookingAhead, "isn't causal"),
        (lambda inner: OverTheBatch(inner, "largest"), "mixes the records of a batch"),
        # Nothing but values, and only in a batch that is large, or long.
        (lambda inner: OverTheBatch(inner, "mean", records=20), "mixes the records"),
        (lambda inner: OverTheBatch(inner, "mean", tokens=50), "mixes the records"),
        # Only what becomes of records that are neither the first nor the last.
        (lambda inner: OverTheBatch(inner, "between", records=3), "mixes the records"),
        (lambda inner: OverTheBatch(inner, "best"), r"picks by rank.*\(topk in .*norm"),
        (lambda inner: OverTheBatch(inner, "norm"), r"over the batch \(.*batch_norm"),
        (lambda inner: OverTheBatch(inner, "noise"), r"random numbers \(randn_like"),
        (lambda inner: OverTheBatch(inner, "dropout"), "draws random numbers"),
        (lambda inner: OverTheBatch(inner, "grid"), r"to a grid.*\(round in"),
    ],
)  # fmt: skip
def test_a_model_that_couples_records_is_refused(
    wrapper: Callable[[nn.Module], nn.Module], reason: str
) -> None:
    model = tuned_model()
    layer = model.base_model.model.model.layers[0]
    layer.post_attention_layernorm = wrapper(layer.post_attention_layernorm)
    with pytest.raises(ConfigError, match=reason):
        check_model(model, read_adapter(model), 64)


def test_a_trace_is_left_on_no_module() -> None:
    model = tuned_model()
    refuse_forward(model, 16, VOCABULARY)
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    assert not any(getattr(m, hook) for m in model.modules() for hook in hooks)


class SecondWay(nn.Module):
    """A tuned layer that reads the tokens around the embedding that is announced."""

    def __init__(self, inner: nn.Module, tokens: list[torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.tokens = inner, tokens
        self.embedding = nn.Embedding(VOCABULARY, 32).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.embedding(self.tokens[-1]))


def test_a_gradient_that_goes_round_the_embedding_is_refused() -> None:
    """The hooks follow gradients to the embedding; a row must never be zero for that."""
    model, tokens = tuned_model(), []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: tokens.append(inputs[0])
    )
    attention = model.base_model.model.model.layers[0].self_attn
    attention.v_proj = SecondWay(attention.v_proj, tokens)
    # The key shows the branch.
    with pytest.raises(ConfigError, match=r"v_proj.*one row per record"):
        check_model(model, read_adapter(model), 64)


def test_a_layer_that_reads_a_weight_round_its_module_is_named() -> None:
    model = tuned_model()
    attention = model.base_model.model.model.layers[0].self_attn
    attention.o_proj.forward = lambda x: x @ attention.o_proj.weight.T
    with pytest.raises(
        ConfigError, match=r"o_proj.* takes no part .* leave its module"
    ):
        check_model(model, read_adapter(model), 64)


def test_a_layer_that_sees_tokens_is_named() -> None:
    model = tuned_model()
    attention = model.base_model.model.model.layers[0].self_attn
    inner = attention.q_proj.forward
    attention.q_proj.forward = lambda x: inner(x.flatten(0, 1)).view(*x.shape[:2], -1)
    with pytest.raises(ConfigError, match=r"q_proj.* sees single tokens, not one row"):
        check_model(model, read_adapter(model), 64)


def test_an_adapter_that_nothing_reads_is_refused() -> None:
    model = tuned_model()
    attention = model.base_model.model.model.layers[0].self_attn
    attention.o_proj = attention.o_proj.base_layer
    attention.o_proj.weight.data.zero_()
    model.base_model.model.model.layers[0].mlp.register_forward_hook(
        lambda _module, _inputs, output: output.detach() * 0
    )
    with pytest.raises((TuningFailed, ConfigError)):
        check_model(model, read_adapter(model), 64)


def test_an_adapter_without_a_gradient_is_refused() -> None:
    model = tuned_model()
    # B = 0 and A = 0: each one's gradient has the other one as a factor.
    initial = np.zeros_like(read_adapter(model))
    with pytest.raises(TuningFailed, match="nothing would be trained"):
        check_model(model, initial, 64)


def test_a_zero_b_alone_has_a_gradient() -> None:
    model = tuned_model()
    for key, parameter in adapter_parameters(model):
        if ".lora_B." in key:
            parameter.data.zero_()
    assert check_model(model, read_adapter(model), 64)


@pytest.mark.parametrize("clip", [0.1, None])
def test_the_worst_batch_decides_the_budget(clip: float | None) -> None:
    model = tuned_model()
    seen: list[tuple[int, ...]] = []

    def too_large(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(tuple(inputs[0].shape))
        if inputs[0].numel() > 150:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(too_large)
    budget = fitting_packing(
        model, clip=clip, selective=True, max_tokens=32, token_budget=512
    ).token_budget
    assert seen[0] == (16, 32)
    assert budget <= 150 < 2 * budget


def test_a_record_that_never_fits_is_known_beforehand() -> None:
    model = tuned_model()

    def never(*_: object) -> None:
        raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(never)
    with pytest.raises(TuningFailed, match="a single record doesn't fit"):
        fitting_packing(model, clip=0.1, selective=True, max_tokens=32, token_budget=99)


def test_a_person_that_never_fits_is_known_beforehand() -> None:
    """Its records share a batch: that two of three fit is no help."""
    model, calls = tuned_model(), 0

    def at_most_two(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal calls
        calls += 1
        assert calls < 50, "it goes on trying for ever"
        if inputs[0].shape[0] > 2:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(at_most_two)
    with pytest.raises(TuningFailed, match="a single unit doesn't fit"):
        fitting_packing(
            model,
            clip=0.1,
            selective=True,
            max_tokens=32,
            token_budget=512,
            unit_rows=3,
        )


def test_synthetic_records_are_always_the_same() -> None:
    first, second = (synthetic_examples(50, [4, 9]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert one.tokens.max() < 50
        assert one.labels > 0
