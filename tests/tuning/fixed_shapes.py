"""Physical batches of one fixed shape, and the record gradients that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model
from fedit_secure.tuning.batches import PhysicalBatch
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.record_gradients import RecordGradients
from fedit_secure.tuning.record_loss import summed_loss


def with_adapter(model: nn.Module) -> PeftModel:
    """`model` with a LoRA adapter whose A and B are both away from zero."""
    tuned = attach_adapter(model, LoraConfig(rank=3, alpha=6))
    random = np.random.default_rng(3)
    vector = random.normal(0, 0.3, read_adapter(tuned).shape).astype("f4")
    write_adapter(tuned, vector)
    return tuned


def tuned_from(folder: Path, **options: Any) -> PeftModel:
    """The model in `folder`, loaded with `options`, with an adapter."""
    return with_adapter(load_base_model(folder, **options))


def fixed_batch(
    examples: Sequence[Example], slots: Sequence[int | None], length: int
) -> PhysicalBatch:
    """One row per slot (None: a row of padding, which has no label), all of `length`."""
    tokens = np.zeros((len(slots), length), np.int64)
    predicts = np.zeros((len(slots), length), np.bool_)
    for row, slot in enumerate(slots):
        if slot is not None:
            example, count = examples[slot], len(examples[slot].tokens)
            tokens[row, :count] = example.tokens
            predicts[row, example.first_label - 1 : count - 1] = True
    labels = predicts.sum(axis=1)
    weights = np.repeat(1.0 / np.maximum(labels, 1), labels).astype(np.float32)
    return PhysicalBatch(np.arange(len(slots)), tokens, predicts, weights)


def record_rows(model: nn.Module, batch: PhysicalBatch) -> torch.Tensor:
    """Every row's gradient: shape (rows, d)."""
    hooks = RecordGradients(model)
    try:
        loss = summed_loss(model, batch, selective=True)
        return torch.cat(hooks.rows(loss, len(batch.slots)), dim=1)
    finally:
        hooks.close()


def gap(rows: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative distance of two records' gradients."""
    return float(((rows - expected).norm(dim=1) / expected.norm(dim=1)).max())


def rows_alone(
    model: nn.Module, examples: Sequence[Example], count: int, length: int
) -> torch.Tensor:
    """Each record's gradient when all others of its batch are padding."""
    alone = []
    for slot in range(count):
        slots = [slot if row == slot else None for row in range(count)]
        alone.append(record_rows(model, fixed_batch(examples, slots, length))[slot])
    return torch.stack(alone)
