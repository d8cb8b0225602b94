"""The loss of a physical batch as a sum of one loss per record.

A Hugging Face model's own `loss` divides by the batch's count of labels: there, one
record changes every other record's gradient, and clipping bounds nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedit_secure.tuning.batches import PhysicalBatch

_CPU_PIECE = 1 << 18
_CUDA_PIECE = 1 << 26
"""Logits that are turned into gradients at once: on a CPU as many as its cache holds."""


def label_logits(model: nn.Module, batch: PhysicalBatch, *, selective: bool) -> Tensor:
    """The logits that the loss counts: float, shape (labels, vocabulary).

    Args:
        model: a causal language model, with or without an adapter.
        batch: the records.
        selective: ask the model's own forward for these positions only (its
            `logits_to_keep`), which keeps its logit scaling and soft-capping. Only for
            a model on which `selects_labels` holds.
    """
    device = device_of(model)
    tokens = torch.from_numpy(batch.tokens).to(device)
    keep = torch.from_numpy(batch.predicts).to(device)
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
    labels = torch.from_numpy(batch.labels).to(logits.device)
    weights = torch.from_numpy(batch.weights).to(logits.device)
    loss: Tensor = _WeightedCrossEntropy.apply(logits, labels, weights)
    return loss


class _WeightedCrossEntropy(torch.autograd.Function):
    """sum_i weight_i * -log softmax(logits_i)[label_i], in float32.

    Its gradient, weight_i * (softmax(logits_i) - onehot(label_i)), is made together with
    the loss, piece by piece while the logits are in the cache. torch's own goes over
    them six times: a quarter of a step where the vocabulary is large.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The loss, a scalar; `logits` stay as they are."""
        gradient = torch.empty_like(logits)
        losses = torch.empty_like(weights)
        room = _CPU_PIECE if logits.device.type == "cpu" else _CUDA_PIECE
        rows = max(1, room // logits.shape[1])
        for start in range(0, len(logits), rows):
            here = slice(start, start + rows)
            label, weight = labels[here, None], weights[here, None]
            piece = logits[here].float()
            piece = piece - piece.amax(dim=1, keepdim=True)
            chosen = piece.gather(1, label)
            total = piece.exp_().sum(dim=1, keepdim=True)
            losses[here] = (total.log() - chosen).squeeze(1)
            piece.mul_(weight / total)
            piece.scatter_add_(1, label, -weight)
            gradient[here] = piece
        ctx.save_for_backward(gradient)
        return losses @ weights

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        """The loss's gradient with respect to the logits, times the outer one."""
        (gradient,) = ctx.saved_tensors
        (scale,) = outer
        return (gradient if float(scale) == 1.0 else gradient * scale), None, None


def device_of(model: nn.Module) -> torch.device:
    """Where the model is: all of it is on one device."""
    return next(model.parameters()).device


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
