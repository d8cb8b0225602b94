"""The loss of a physical batch as a sum of one loss per record.

A Hugging Face model's own `loss` divides by the batch's count of labels: there, one
record changes every other record's gradient, and clipping bounds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedit_secure.tuning.batches import PhysicalBatch


def label_logits(model: nn.Module, batch: PhysicalBatch, *, selective: bool) -> Tensor:
    """The logits that the loss counts: float, shape (labels, vocabulary).

    Args:
        model: a causal language model, with or without an adapter.
        batch: the records.
        selective: ask the model's own forward for these positions only (its
            `logits_to_keep`), which keeps its logit scaling and soft-capping. Only for
            a model on which `selects_labels` holds.
    """
    tokens = torch.from_numpy(batch.tokens)
    keep = torch.from_numpy(batch.predicts)
    if selective:
        outputs = model(input_ids=tokens, use_cache=False, logits_to_keep=keep)
        logits: Tensor = outputs.logits
        return logits
    outputs = model(input_ids=tokens, use_cache=False)
    chosen: Tensor = outputs.logits[keep]
    return chosen


def summed_loss(model: nn.Module, batch: PhysicalBatch, *, selective: bool) -> Tensor:
    """Sum over the records of the mean loss over each one's own labels, in float32."""
    logits = label_logits(model, batch, selective=selective)
    labels = torch.from_numpy(batch.tokens[:, 1:][batch.predicts[:, :-1]])
    losses = functional.cross_entropy(logits.float(), labels, reduction="none")
    return losses @ torch.from_numpy(batch.weights)


@torch.no_grad()
def selects_labels(model: nn.Module, batch: PhysicalBatch) -> bool:
    """Whether selective logits equal those of the full forward on `batch`.

    Most of the work of a small model is its output head, and most of the positions are
    prompts: leaving them out halves a step. Whoever can't do it takes the full path.
    """
    full = label_logits(model, batch, selective=False)
    try:
        selected = label_logits(model, batch, selective=True)
    # A forward that doesn't know the argument fails in ways of its own.
    except Exception:  # noqa: BLE001
        return False
    if selected.shape != full.shape:
        return False
    tolerance = 1e-5 * float(full.abs().max())
    return bool(torch.allclose(selected, full, rtol=1e-5, atol=tolerance))
