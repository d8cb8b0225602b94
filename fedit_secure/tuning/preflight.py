"""What is tried on synthetic records before the first real one is sampled.

A model that can't be tuned privately, or that doesn't fit into memory, must show it
here: once records are drawn, a silo that fails or drops out tells something about them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.tuning.adapter import FloatVector, adapter_parameters, write_adapter
from fedit_secure.tuning.base_model import vocabulary
from fedit_secure.tuning.batches import physical_batch
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.record_gradients import RecordGradients
from fedit_secure.tuning.record_loss import selects_labels, summed_loss

_TOLERANCE = 1e-3  # relative; float32 rounding is below 1e-5, a mixed record near 1


def synthetic_examples(vocabulary: int, lengths: list[int]) -> list[Example]:
    """Records of random tokens, always the same; half of each is response."""
    random = np.random.default_rng(0)
    return [
        Example(random.integers(0, vocabulary, length), max(1, length // 2))
        for length in lengths
    ]


def check_model(model: nn.Module, initial: FloatVector, max_tokens: int) -> bool:
    """Try the model on synthetic records; leave its adapter at `initial`.

    Checks that the gradient of a record from the hooks equals the plain one, that it
    doesn't depend on the other records of its batch, and that at `initial` it isn't
    zero.

    Returns:
        Whether the logits may be asked for at label positions only.

    Raises:
        ConfigError: the model couples records, or its hooks give wrong gradients.
        TuningFailed: nothing would be trained.
    """
    lengths = [min(n, max_tokens) for n in (5, 19, 12)]
    examples = synthetic_examples(vocabulary(model), lengths)
    together = physical_batch(examples, np.arange(len(examples)))
    random = np.random.default_rng(1)
    # A fresh adapter's A has no gradient, because B is zero: try it away from there.
    write_adapter(model, initial + random.normal(0, 0.02, initial.shape).astype("f4"))
    selective = selects_labels(model, together)
    parameters = [p for _, p in adapter_parameters(model)]
    hooks = RecordGradients(model)
    try:
        loss = summed_loss(model, together, selective=selective)
        rows = torch.cat(hooks.rows(loss, len(examples)), dim=1)
    finally:
        hooks.close()
    for slot in range(len(examples)):
        alone = physical_batch(examples, np.array([slot]))
        loss = summed_loss(model, alone, selective=selective)
        gradients = torch.autograd.grad(loss, parameters)
        expected = torch.cat([g.reshape(-1) for g in gradients])
        gap = float((rows[slot] - expected).norm())
        # "not <=" refuses a NaN too.
        if not gap <= _TOLERANCE * float(expected.norm()):
            raise ConfigError(
                "the base model mixes the records of a batch: a record's gradient "
                "changes with the others, so it can't be tuned privately"
            )
    write_adapter(model, initial)
    loss = summed_loss(model, together, selective=selective)
    gradients = torch.autograd.grad(loss, parameters)
    if not any(bool(gradient.any()) for gradient in gradients):
        raise TuningFailed("the adapter has no gradient: nothing would be trained")
    return selective


def fitting_budget(
    model: nn.Module,
    *,
    clip: float | None,
    selective: bool,
    max_tokens: int,
    token_budget: int,
) -> int:
    """The token budget at which the worst possible physical batch fits into memory.

    The batch is as large as the budget allows, of records of `max_tokens` tokens that
    are all labels: no drawn batch can need more.

    Raises:
        TuningFailed: not even one such record fits.
    """
    rows = max(1, token_budget // max_tokens)
    examples = [
        Example(example.tokens, 1)
        for example in synthetic_examples(vocabulary(model), [max_tokens] * rows)
    ]
    worst = BatchGradient(
        model, examples, clip=clip, selective=selective, token_budget=token_budget
    )
    try:
        worst.sum(np.arange(rows))
    finally:
        worst.close()
    return worst.token_budget
