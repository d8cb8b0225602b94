"""Each record's mean response NLL, in batches, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedit_secure.tuning.batches import Packing, Slots, physical_batch, split_by_length
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.record_loss import label_logits

OnProgress = Callable[[int, int], None]
"""Told after every batch: records done, and of how many."""


@torch.no_grad()
def record_nlls(
    model: nn.Module,
    examples: Sequence[Example],
    slots: Slots,
    packing: Packing,
    *,
    selective: bool,
    on_progress: OnProgress | None = None,
) -> npt.NDArray[np.float64]:
    """Each slot's mean NLL over its own response tokens, in nats.

    Args:
        model: a causal language model, in evaluation mode.
        examples: slot i is record i.
        slots: int64: whom to score; each has a label.
        packing: how they are split. Fixed shapes give a record the same figure to the
            last bit, whoever is scored beside it.
        selective: see `record_loss.label_logits`.

    Returns:
        float64, shape (examples,): at each slot its NLL; NaN elsewhere.
    """
    nlls = np.full(len(examples), np.nan)
    lengths = np.array([len(e.tokens) for e in examples], np.int64)
    done = 0
    for group in split_by_length(lengths, slots, packing):
        batch = physical_batch(examples, group, packing)
        logits = label_logits(model, batch, selective=selective).float()
        labels = torch.from_numpy(batch.labels).to(logits.device)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        rows = batch.predicts.nonzero()[0]
        weighted = losses.double().cpu().numpy() * batch.weights
        nlls[group] = np.bincount(rows, weights=weighted, minlength=len(group))
        done += len(group)
        if on_progress is not None:
            on_progress(done, len(slots))
    return nlls
