"""What is tried on synthetic records before the first real one is sampled.

A model that can't be tuned privately, or that doesn't fit into memory, must show it
here: once records are drawn, a silo that fails or drops out tells something about them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.tuning.adapter import FloatVector, adapter_parameters, write_adapter
from fedit_secure.tuning.base_model import vocabulary
from fedit_secure.tuning.batches import (
    ROW_TOKENS,
    Packing,
    PhysicalBatch,
    physical_batch,
)
from fedit_secure.tuning.checkpointing import is_checkpointed
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.memory import roomy_budget
from fedit_secure.tuning.record_gradients import RecordGradients, summed_gradient
from fedit_secure.tuning.record_loss import device_of, selects_labels, summed_loss

_TOLERANCE = 1e-3  # relative; float32 rounding is below 1e-5, a mixed record near 1


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
    doesn't depend on the other records of its batch (with `fixed` shapes: not by a bit),
    and that at `initial` it isn't zero.

    Returns:
        Whether the logits may be asked for at label positions only. With fixed shapes
        they may not: the number of labels would be one more shape.

    Raises:
        ConfigError: the model couples records, or its hooks give wrong gradients.
        TuningFailed: nothing would be trained.
    """
    lengths = [min(n, max_tokens) for n in (5, 19, 12)]
    examples = synthetic_examples(vocabulary(model), lengths)
    slots = np.arange(len(examples))
    longest = max(lengths)
    shape = Packing(longest * 4, lengths=(longest,) if fixed else ())
    together = physical_batch(examples, slots, shape)
    random = np.random.default_rng(1)
    # A fresh adapter's A has no gradient, because B is zero: try it away from there.
    write_adapter(model, initial + random.normal(0, 0.02, initial.shape).astype("f4"))
    selective = not fixed and selects_labels(model, together)
    parameters = [p for _, p in adapter_parameters(model)]
    rows = _rows(model, together, selective=selective)
    if fixed:
        moved = physical_batch(examples, slots[::-1].copy(), shape)
        lone = physical_batch(examples, slots[:1], shape)
        others = _rows(model, moved, selective=selective)
        alone = _rows(model, lone, selective=selective)
        if not (torch.equal(rows[0], others[2]) and torch.equal(rows[0], alone[0])):
            raise ConfigError(
                "below float32 a record's gradient changes with the others on this "
                "device, so it can't be tuned privately there: use precision float32"
            )
    for slot in range(len(examples)):
        lone = physical_batch(examples, slots[slot : slot + 1], shape)
        loss = summed_loss(model, lone, selective=selective)
        again = is_checkpointed(model)
        expected = summed_gradient(loss, parameters, checkpointed=again)
        gap = float((rows[slot] - expected).norm())
        # "not <=" refuses a NaN too.
        if not gap <= _TOLERANCE * float(expected.norm()):
            raise ConfigError(
                "the base model mixes the records of a batch: a record's gradient "
                "changes with the others, so it can't be tuned privately"
            )
    write_adapter(model, initial)
    rows = _rows(model, together, selective=selective)
    if not bool(rows.any()):
        raise TuningFailed("the adapter has no gradient: nothing would be trained")
    return selective


def _rows(model: nn.Module, batch: PhysicalBatch, *, selective: bool) -> Tensor:
    hooks = RecordGradients(model, checkpointed=is_checkpointed(model))
    try:
        loss = summed_loss(model, batch, selective=selective)
        return torch.cat(hooks.rows(loss, len(batch.tokens)), dim=1)
    finally:
        hooks.close()


def fitting_packing(
    model: nn.Module,
    *,
    clip: float | None,
    selective: bool,
    max_tokens: int,
    token_budget: int | None,
    unit_rows: int = 1,
    fixed: bool = False,
) -> Packing:
    """The packing with which the worst possible physical batches fit into memory.

    Those are as large as the budget allows, one of records of `max_tokens` tokens and
    one of records as short as they count, all of them labels: no drawn batch can need
    more, neither for its tokens nor for its records' gradients.

    Args:
        token_budget: tokens of a physical batch; None for what free memory allows.
        unit_rows: most records of one unit.
        fixed: see `batches.Packing.lengths`.

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
            device_of(model), one.token_budget, lambda: tried(one, max_tokens, 1)
        )
    packing = Packing(token_budget, unit_rows)
    for length in (max_tokens, min(max_tokens, ROW_TOKENS)):
        units = max(1, packing.rows(length) // unit_rows)
        packing = tried(packing, length, units)
    if fixed:
        return Packing.fixed(packing.token_budget, max_tokens, unit_rows)
    return packing
