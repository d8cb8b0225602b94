"""Layers that are run again in the backward pass give every record the same gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import SHAPES, Sums, random_examples, tuned_model
from torch import nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import attach_adapter, read_adapter
from fedit_secure.tuning.checkpointing import checkpoint_layers, is_checkpointed
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.preflight import check_model


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("clip", [0.3, None])
def test_recomputed_layers_give_the_same_sum(family: str, clip: float | None) -> None:
    examples = random_examples(9)
    everyone = np.arange(9)
    expected = Sums(tuned_model(family), examples, clip=clip).sum(everyone)
    model = tuned_model(family)
    checkpoint_layers(model)
    checkpoint_layers(model)  # once is enough
    if clip is not None:
        assert check_model(model, read_adapter(model), 64)
    runs = 0

    def count(*_: object) -> None:
        nonlocal runs
        runs += 1

    name = next(n for n, _ in model.named_modules() if n.endswith("lora_A.default"))
    model.get_submodule(name).register_forward_hook(count)
    sums = Sums(model, examples, clip=clip, budget=10_000)
    total = sums.sum(everyone)
    assert runs == 2  # forwards, and again backwards
    assert np.linalg.norm(total - expected) < 5e-5 * np.linalg.norm(expected)
    assert all(p.grad is None for p in model.parameters())


def test_memory_that_runs_out_while_recomputing_changes_no_sum() -> None:
    examples, everyone = random_examples(9), np.arange(9)
    expected = Sums(tuned_model(), examples, clip=0.3).sum(everyone)
    model, runs = tuned_model(), 0
    checkpoint_layers(model)

    def fail_once(*_: object) -> None:
        nonlocal runs
        runs += 1
        if runs == 4:  # the second batch, backwards
            raise torch.OutOfMemoryError

    layer = model.base_model.model.model.layers[0]
    layer.mlp.register_forward_hook(fail_once)
    total = Sums(model, examples, clip=0.3).sum(everyone)
    assert runs > 4
    assert np.linalg.norm(total - expected) < 5e-5 * np.linalg.norm(expected)


def test_a_model_without_such_layers_is_refused() -> None:
    assert not is_checkpointed(tuned_model())
    with pytest.raises(ConfigError, match="can't be recomputed"):
        checkpoint_layers(nn.Linear(3, 3))


def test_dropout_drops_the_same_again() -> None:
    from tiny_models import base_model

    sums = []
    for checkpointed in (False, True):
        model = attach_adapter(base_model(), LoraConfig(rank=3, dropout=0.4))
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(0, 0.3)
        if checkpointed:
            checkpoint_layers(model)
        gradient = Sums(model, random_examples(6), clip=0.3, dropout_key=b"key")
        sums.append(gradient.sum(np.arange(6)))
    assert np.linalg.norm(sums[0] - sums[1]) < 2e-5 * np.linalg.norm(sums[0])
