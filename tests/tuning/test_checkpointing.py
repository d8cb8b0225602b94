"""Gradient checkpointing: the reentrant kind keeps records apart, the other is refused.

A layer checkpoints in training mode only, so the layers are put into it and nothing
inside them is.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from architecture_row import Row
from architectures import ROWS
from peft import PeftModel
from test_architectures import ROUNDING, best_model, one_by_one
from tiny_models import random_examples
from transformers.modeling_layers import GradientCheckpointingLayer

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import read_adapter
from fedit_secure.tuning.batches import physical_batch
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.preflight import check_model
from fedit_secure.tuning.record_gradients import RecordGradients
from fedit_secure.tuning.record_loss import summed_loss

KINDS = ("llama", "qwen3", "gemma2", "gpt_neox", "gpt2", "granite", "olmo2", "bamba")
SOME = [next(row for row in ROWS if row.kind == kind) for kind in KINDS]


def checkpointed(model: PeftModel, *, reentrant: bool) -> int:
    """Make every layer of `model` throw its activations away; how many do."""
    model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = True
    return len(layers)


def gap_with_checkpoints(
    model: PeftModel, examples: list[Example], *, selective: bool, **options: bool
) -> float:
    """Relative distance of a record's gradient under checkpointing from the plain one.

    The worst record's; `options` are those of `RecordGradients`.
    """
    expected = one_by_one(model, examples)
    assert checkpointed(model, reentrant=True) > 0
    hooks = RecordGradients(model, **options)
    batch = physical_batch(examples, np.arange(len(examples)))
    try:
        loss = summed_loss(model, batch, selective=selective)
        rows = torch.cat(hooks.rows(loss, len(examples)), dim=1).double()
    finally:
        hooks.close()
    return float(((rows - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.skipif(
    "checkpointing" not in inspect.signature(RecordGradients).parameters,
    reason="RecordGradients has no checkpointing yet",
)
@pytest.mark.parametrize("row", SOME, ids=lambda row: row.name)
def test_reentrant_checkpoints_change_no_record(row: Row) -> None:
    gap = gap_with_checkpoints(
        best_model(row), random_examples(6), selective=row.selective, checkpointing=True
    )
    assert gap < ROUNDING


@pytest.mark.parametrize(
    ("reentrant", "reason"),
    [
        (True, "a pass that keeps records apart fails in it"),
        (False, r"doesn't show .* one row per record"),
    ],
)
def test_checkpoints_that_nobody_asked_for_are_refused(
    *, reentrant: bool, reason: str
) -> None:
    """Neither a wrong row nor a missing one: a sentence before a record is drawn."""
    model = best_model(SOME[0])
    checkpointed(model, reentrant=reentrant)
    with pytest.raises(ConfigError, match=reason):
        check_model(model, read_adapter(model), 64)
