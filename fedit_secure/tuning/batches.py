"""Poisson sampling, and physical batches: sorted by length, bounded in tokens. No torch.

A logical batch is what one noisy step sees: every unit enters it by a coin of its own.
How it is split into physical batches changes time and memory, never the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning.examples import Example

Slots = npt.NDArray[np.int64]

ROW_TOKENS = 16
"""The fewest tokens that a record counts as in a budget. Every record has a gradient of
its own, however short it is: so memory is bounded by the budget, and not by what the
records at hand look like."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How logical batches are split into physical ones. Public: nothing in it is drawn.

    Attributes:
        token_budget: bound on rows times longest row of a physical batch.
        unit_rows: most records of one unit, which share a physical batch.
        lengths: empty to pad a physical batch to the longest of its records, which in
            float32 moves the others' gradients by rounding alone. Otherwise the only
            lengths there are, ascending; a record is padded to the next one, and rows
            are filled up to as many as the budget allows. So a record is always rounded
            in the same way, whoever is with it.
    """

    token_budget: int
    unit_rows: int = 1
    lengths: tuple[int, ...] = ()

    @classmethod
    def fixed(cls, token_budget: int, most_tokens: int, unit_rows: int = 1) -> Packing:
        """Fixed shapes for records of at most `most_tokens`: lengths in eighths of it."""
        eighths = {math.ceil(most_tokens * part / 8) for part in range(1, 9)}
        return cls(token_budget, unit_rows, tuple(sorted(eighths)))

    def rows(self, length: int) -> int:
        """Most rows of a physical batch whose longest record has `length` tokens."""
        padded = max(self.padded(length), ROW_TOKENS)
        return max(self.unit_rows, self.token_budget // padded)

    def padded(self, length: int) -> int:
        """The tokens that a record of `length` tokens is padded to, at least."""
        return next((fixed for fixed in self.lengths if fixed >= length), length)

    def halved(self, tokens: int) -> Packing:
        """A packing for half the memory that a physical batch of `tokens` needed."""
        return replace(self, token_budget=max(1, min(self.token_budget, tokens) // 2))


@dataclass(frozen=True, slots=True)
class PhysicalBatch:
    """Records that go through the model together, padded on the right.

    A record is padded with its own first token. No attention mask is needed: in a
    causal model no token sees the padding after it.

    Attributes:
        slots: int64, shape (records,). Rows beyond them only fill up a fixed shape.
        tokens: int64, shape (rows, longest).
        predicts: bool, as `tokens`: the logits at this position count in the loss; the
            label is the next token.
        weights: float32, shape (count of `predicts`,): in row-major order, 1 / labels
            of the record. The weighted loss is the sum of the records' mean losses, so
            no record changes another one's gradient.
    """

    slots: Slots
    tokens: npt.NDArray[np.int64]
    predicts: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64, shape (count of `predicts`,): the token after each such position."""
        labels: npt.NDArray[np.int64] = self.tokens[:, 1:][self.predicts[:, :-1]]
        return labels


def poisson_units(noise: CryptoNoise, step: int, units: int, rate: float) -> Slots:
    """The units of the logical batch of `step`, ascending; may be none or all."""
    return np.flatnonzero(noise.coins(step, units, rate)).astype(np.int64)


def split_by_length(
    lengths: npt.NDArray[np.int64],
    units: Slots,
    packing: Packing,
    sizes: npt.NDArray[np.int64] | None = None,
) -> list[Slots]:
    """Split a logical batch into groups that fit into the packing's budget.

    Longest first: a group that doesn't fit into memory shows early. A unit beyond the
    budget is a group of its own: nobody is ever left out.

    Args:
        lengths: int64, tokens of the longest record of every unit.
        units: the logical batch.
        packing: the budget, and what shapes there may be.
        sizes: int64, records of every unit; None for one each.
    """
    order = units[np.argsort(-lengths[units], kind="stable")]
    groups: list[Slots] = []
    start, rows, shape = 0, 0, (0, 0)
    for end, unit in enumerate(order.tolist()):
        length = packing.padded(int(lengths[unit]))
        size = 1 if sizes is None else int(sizes[unit])
        other = bool(packing.lengths) and length != shape[0]
        if end == 0 or other or rows + size > shape[1]:
            if end > start:
                groups.append(order[start:end])
            start, rows, shape = end, 0, (length, packing.rows(length))
        rows += size
    if len(order):
        groups.append(order[start:])
    return groups


def physical_batch(
    examples: Sequence[Example], slots: Slots, packing: Packing | None = None
) -> PhysicalBatch:
    """The examples of `slots`, each of which has a label, padded to one shape.

    That is the longest of them, or a fixed shape of `packing` if it asks for one.
    """
    chosen = [examples[int(slot)] for slot in slots]
    rows, longest = len(chosen), max(len(example.tokens) for example in chosen)
    if packing is not None and packing.lengths:
        rows, longest = packing.rows(longest), packing.padded(longest)
    tokens = np.ones((rows, longest), np.int64)
    predicts = np.zeros((rows, longest), np.bool_)
    for row, example in enumerate(chosen):
        length = len(example.tokens)
        tokens[row, :length] = example.tokens
        # Any token would do, but for one whose embedding is zero, as a padding token's
        # may be: a norm of zeros has no derivative, and 0 times infinity is NaN.
        tokens[row, length:] = example.tokens[0]
        predicts[row, example.first_label - 1 : length - 1] = True
    tokens[len(chosen) :] = tokens[0]
    labels = predicts[: len(chosen)].sum(axis=1)
    weights = np.repeat(1.0 / labels, labels).astype(np.float32)
    return PhysicalBatch(slots, tokens, predicts, weights)
