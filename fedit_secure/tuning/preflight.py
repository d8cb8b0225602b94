"""What is tried on synthetic records before the first real one is sampled.

A model that can't be tuned privately, or that doesn't fit into memory, must show it
here: once records are drawn, a silo that fails or drops out tells something about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress

import numpy as np
import torch
from torch import Tensor, nn

from fedit_secure.errors import ConfigError, FeditError, TuningFailed
from fedit_secure.tuning.adapter import FloatVector, adapter_parameters, write_adapter
from fedit_secure.tuning.base_model import vocabulary
from fedit_secure.tuning.batches import (
    ROW_TOKENS,
    Packing,
    PhysicalBatch,
    physical_batch,
)
from fedit_secure.tuning.checkpointing import is_checkpointed
from fedit_secure.tuning.dp_step import BatchGradient, out_of_memory
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.forward_trace import refuse_forward
from fedit_secure.tuning.memory import roomy_budget
from fedit_secure.tuning.record_gradients import RecordGradients, summed_gradient
from fedit_secure.tuning.record_loss import device_of, selects_labels, summed_loss
from fedit_secure.tuning.sharding import is_sharded

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


def check_model(
    model: nn.Module, initial: FloatVector, max_tokens: int, *, fixed: bool = False
) -> bool:
    """Try the model on synthetic records; leave its adapter at `initial`.

    Checks that the gradient of a record from the hooks equals the plain one, that it
    doesn't depend on the other records of its batch, be it of many records or of long
    ones (with `fixed` shapes: not by a bit), and that at `initial` it isn't zero.

    Returns:
        Whether the logits may be asked for at label positions only. With fixed shapes
        they may not: the number of labels would be one more shape.

    Raises:
        ConfigError: the model couples records, isn't causal, or doesn't show a gradient
            per record.
        TuningFailed: nothing would be trained.
    """
    words = vocabulary(model)
    write_adapter(model, _off(initial))
    refuse_forward(model, min(max_tokens, _LONG), words)
    mixed = synthetic_examples(words, [min(n, max_tokens) for n in (5, 19, 12)])
    together = physical_batch(mixed, np.arange(len(mixed)))
    selective = not fixed and selects_labels(model, together)
    if selective:
        # A tuned layer behind the choice of positions sees labels instead of records.
        selective = _shows_rows(model, together)
    how = {"selective": selective, "fixed": fixed}
    _compare_with_alone(model, mixed, range(3), **how)
    many = synthetic_examples(words, [min(4, max_tokens)] * _MANY)
    _compare_with_alone(model, many, (0, _MANY - 1), **how)
    long = synthetic_examples(words, [min(_LONG, max_tokens), min(7, max_tokens)])
    # What doesn't fit never shares a batch. With a sharded base, though, nobody may leave
    # a pass that others are in.
    with nullcontext() if is_sharded(model) else suppress(TuningFailed):
        _compare_with_alone(model, long, (0, 1), **how)
    write_adapter(model, initial)
    if not bool(_rows(model, together, selective=selective).any()):
        raise TuningFailed("the adapter has no gradient: nothing would be trained")
    return selective


def probe(
    model: nn.Module, initial: FloatVector, packing: Packing, max_tokens: int
) -> Tensor:
    """Gradients of two synthetic records, each alone: the longest and a short one.

    Processes that compute otherwise than each other show here.

    Returns:
        float32, shape (2 d,), on the CPU. The adapter is left at `initial`.
    """
    write_adapter(model, _off(initial))
    found = []
    for length in (max_tokens, min(max_tokens, ROW_TOKENS)):
        examples = synthetic_examples(vocabulary(model), [length])
        batch = physical_batch(examples, np.arange(1), packing)
        found.append(_rows(model, batch, selective=False)[0])
    write_adapter(model, initial)
    return torch.cat(found).cpu()


def _off(initial: FloatVector) -> FloatVector:
    """Away from a fresh adapter, whose A has no gradient, because B is zero."""
    moved = np.random.default_rng(1).normal(0, 0.02, initial.shape)
    return initial + moved.astype(np.float32)


def _shows_rows(model: nn.Module, batch: PhysicalBatch) -> bool:
    try:
        _rows(model, batch, selective=True)
    except ConfigError:
        return False
    return True


def _rows(model: nn.Module, batch: PhysicalBatch, *, selective: bool) -> Tensor:
    """Every record's gradient from the hooks, shape (rows, d)."""
    hooks = RecordGradients(model, checkpointed=is_checkpointed(model))
    try:
        loss = summed_loss(model, batch, selective=selective)
        return torch.cat(hooks.rows(loss, len(batch.tokens)), dim=1)
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
    fixed: bool,
) -> None:
    """Refuse a model where a record's gradient in the batch isn't the one it has alone.

    Alone, it goes the plain way: no hooks, no other record, and no padding but that of a
    fixed shape. There it also goes through the hooks at another place of the batch.
    """
    longest = max(len(example.tokens) for example in examples)
    lengths = (longest,) if fixed else ()
    shape = Packing(max(longest, ROW_TOKENS) * len(examples), lengths=lengths)
    everyone = np.arange(len(examples))
    rows = _rows(model, physical_batch(examples, everyone, shape), selective=selective)
    parameters = [p for _, p in adapter_parameters(model)]
    if fixed:
        moved = physical_batch(examples, everyone[::-1].copy(), shape)
        if not torch.equal(rows, _rows(model, moved, selective=selective).flip(0)):
            raise ConfigError(
                "below float32 a record's gradient changes with its place in a batch on "
                "this device, so it can't be tuned privately there: use precision "
                "float32"
            )
    for slot in slots:
        alone = physical_batch(examples, np.array([slot]), shape)
        if fixed and not torch.equal(
            rows[slot], _rows(model, alone, selective=selective)[0]
        ):
            raise ConfigError(
                "below float32 a record's gradient changes with the others on this "
                "device, so it can't be tuned privately there: use precision float32"
            )
        loss = summed_loss(model, alone, selective=selective)
        again = is_checkpointed(model)
        expected = summed_gradient(loss, parameters, checkpointed=again)
        gap = float((rows[slot] - expected).norm())
        # "not <=" refuses a NaN too.
        if not gap <= _TOLERANCE * float(expected.norm()):
            raise ConfigError(
                "the base model mixes the records of a batch: a record's gradient "
                "changes with the others, so it can't be tuned privately"
            )


def fitting_packing(
    model: nn.Module,
    *,
    clip: float | None,
    selective: bool,
    max_tokens: int,
    token_budget: int | None,
    unit_rows: int = 1,
    fixed: bool = False,
    sharers: int = 1,
) -> Packing:
    """The packing with which the worst possible physical batches fit into memory.

    Those are as large as the budget allows, one of records of `max_tokens` tokens and
    one of records as short as they count, all of them labels: no drawn batch can need
    more, neither for its tokens nor for its records' gradients.

    Args:
        token_budget: tokens of a physical batch; None for what free memory allows.
        unit_rows: most records of one unit.
        fixed: see `batches.Packing.lengths`.
        sharers: see `memory.roomy_budget`.

    Raises:
        TuningFailed: not even one such unit fits.
    """

    def tried(packing: Packing, length: int, units: int) -> Packing:
        count = units * unit_rows
        examples = [
            Example(example.tokens, 1)
            for example in synthetic_examples(vocabulary(model), [length] * count)
        ]
        each = list(np.arange(count).reshape(units, unit_rows))
        worst = BatchGradient(
            model,
            examples,
            clip=clip,
            selective=selective,
            packing=packing,
            units=each if unit_rows > 1 else None,
        )
        try:
            worst.sum(np.arange(units))
        finally:
            worst.close()
        return worst.packing

    if token_budget is None:
        one = Packing(max_tokens * unit_rows, unit_rows)
        token_budget = roomy_budget(
            device_of(model),
            one.token_budget,
            lambda: tried(one, max_tokens, 1),
            sharers,
        )
    packing = Packing(token_budget, unit_rows)
    for length in (max_tokens, min(max_tokens, ROW_TOKENS)):
        units = max(1, packing.rows(length) // unit_rows)
        packing = tried(packing, length, units)
    if fixed:
        return Packing.fixed(packing.token_budget, max_tokens, unit_rows)
    return packing
