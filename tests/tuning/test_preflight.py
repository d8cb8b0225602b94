"""An unfit model shows before the first record is sampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import SHAPES, tuned_model
from torch import nn

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.tuning.adapter import adapter_parameters, read_adapter
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


@pytest.mark.parametrize("wrapper", [Coupling, LookingAhead])
def test_a_model_that_couples_records_is_refused(wrapper: type[nn.Module]) -> None:
    model = tuned_model()
    layer = model.base_model.model.model.layers[0]
    layer.post_attention_layernorm = wrapper(layer.post_attention_layernorm)
    with pytest.raises(ConfigError, match="mixes the records of a batch"):
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


def test_synthetic_records_are_always_the_same() -> None:
    first, second = (synthetic_examples(50, [4, 9]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert one.tokens.max() < 50
        assert one.labels > 0
