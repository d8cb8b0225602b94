"""What is tried on synthetic records before the first real one is sampled.

A model that can't be tuned privately, or that doesn't fit into memory, must show it
here: once records are drawn, a silo that fails or drops out tells something about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from fedit_secure.errors import ConfigError, FeditError, TuningFailed
from fedit_secure.tuning.adapter import FloatVector, adapter_parameters, write_adapter
from fedit_secure.tuning.base_model import vocabulary
from fedit_secure.tuning.batches import PhysicalBatch, physical_batch
from fedit_secure.tuning.dp_step import BatchGradient, out_of_memory
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.forward_trace import refuse_forward
from fedit_secure.tuning.record_gradients import RecordGradients
from fedit_secure.tuning.record_loss import selects_labels, summed_loss

_TOLERANCE = 1e-3  # relative; float32 rounding is below 1e-5, a mixed record near 1
_MANY = 32  # records
_LONG = 512  # tokens


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
    doesn't depend on the other records of its batch, be it of many records or of long
    ones, and that at `initial` it isn't zero.

    Returns:
        Whether the logits may be asked for at label positions only.

    Raises:
        ConfigError: the model couples records, isn't causal, or doesn't show a gradient
            per record.
        TuningFailed: nothing would be trained.
    """
    words = vocabulary(model)
    random = np.random.default_rng(1)
    # A fresh adapter's A has no gradient, because B is zero: try it away from there.
    write_adapter(model, initial + random.normal(0, 0.02, initial.shape).astype("f4"))
    refuse_forward(model, min(max_tokens, _LONG), words)
    mixed = synthetic_examples(words, [min(n, max_tokens) for n in (5, 19, 12)])
    together = physical_batch(mixed, np.arange(len(mixed)))
    selective = selects_labels(model, together)
    if selective:
        # A tuned layer behind the choice of positions sees labels instead of records.
        selective = _shows_rows(model, together)
    _compare_with_alone(model, mixed, range(3), selective=selective)
    many = synthetic_examples(words, [min(4, max_tokens)] * _MANY)
    _compare_with_alone(model, many, (0, _MANY - 1), selective=selective)
    long = synthetic_examples(words, [min(_LONG, max_tokens), min(7, max_tokens)])
    with suppress(TuningFailed):  # what doesn't fit never shares a batch
        _compare_with_alone(model, long, (0, 1), selective=selective)
    write_adapter(model, initial)
    loss = summed_loss(model, together, selective=selective)
    parameters = [p for _, p in adapter_parameters(model)]
    gradients = torch.autograd.grad(loss, parameters)
    if not any(bool(gradient.any()) for gradient in gradients):
        raise TuningFailed("the adapter has no gradient: nothing would be trained")
    return selective


def _shows_rows(model: nn.Module, batch: PhysicalBatch) -> bool:
    try:
        _rows(model, batch, selective=True)
    except ConfigError:
        return False
    return True


def _rows(model: nn.Module, batch: PhysicalBatch, *, selective: bool) -> torch.Tensor:
    """Every record's gradient from the hooks, shape (records, d)."""
    hooks = RecordGradients(model)
    try:
        loss = summed_loss(model, batch, selective=selective)
        return torch.cat(hooks.rows(loss, len(batch.slots)), dim=1)
    except FeditError:
        raise
    # A model that meddles with what the hooks hold fails in ways of its own.
    except Exception as failure:
        if out_of_memory(failure):
            raise TuningFailed("synthetic records don't fit into memory") from failure
        raise ConfigError(
            "the base model can't be tuned privately: a pass that keeps records apart "
            f"fails in it ({type(failure).__name__})"
        ) from failure
    finally:
        hooks.close()


def _compare_with_alone(
    model: nn.Module,
    examples: Sequence[Example],
    slots: Iterable[int],
    *,
    selective: bool,
) -> None:
    """Refuse a model where a record's gradient in the batch isn't the one it has alone.

    Alone, it goes the plain way: no hooks, no padding, no other record.
    """
    rows = _rows(
        model, physical_batch(examples, np.arange(len(examples))), selective=selective
    )
    parameters = [p for _, p in adapter_parameters(model)]
    for slot in slots:
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
