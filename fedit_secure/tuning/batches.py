"""Poisson sampling, and physical batches: sorted by length, bounded in tokens. No torch.

A logical batch is what one noisy step sees: every slot enters it by a coin of its own.
How it is split into physical batches changes time and memory, never the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning.examples import Example

Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PhysicalBatch:
    """Records that go through the model together, padded on the right.

    A record is padded with its own first token. No attention mask is needed: in a
    causal model no token sees the padding after it.

    Attributes:
        slots: int64, shape (records,).
        tokens: int64, shape (records, longest).
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


def poisson_slots(noise: CryptoNoise, step: int, slots: int, rate: float) -> Slots:
    """The slots of the logical batch of `step`, ascending; may be none or all."""
    return np.flatnonzero(noise.coins(step, slots, rate)).astype(np.int64)


def split_by_length(
    lengths: npt.NDArray[np.int64], slots: Slots, token_budget: int
) -> list[Slots]:
    """Split a logical batch into groups of at most `token_budget` tokens with padding.

    Longest first: a group that doesn't fit into memory shows early. A record longer
    than the budget is a group of its own: no record is ever left out.

    Args:
        lengths: tokens of every slot of the data set.
        slots: the logical batch.
        token_budget: bound on records times longest of a group.
    """
    order = slots[np.argsort(-lengths[slots], kind="stable")]
    groups: list[Slots] = []
    start = 0
    while start < len(order):
        rows = max(1, token_budget // max(1, int(lengths[order[start]])))
        groups.append(order[start : start + rows])
        start += rows
    return groups


def physical_batch(examples: Sequence[Example], slots: Slots) -> PhysicalBatch:
    """Pad the examples of `slots`, each of which has a label, to the longest of them."""
    chosen = [examples[int(slot)] for slot in slots]
    longest = max(len(example.tokens) for example in chosen)
    tokens = np.zeros((len(chosen), longest), np.int64)
    predicts = np.zeros((len(chosen), longest), np.bool_)
    for row, example in enumerate(chosen):
        length = len(example.tokens)
        tokens[row, :length] = example.tokens
        # Any token would do, but for one whose embedding is zero, as a padding token's
        # may be: a norm of zeros has no derivative, and 0 times infinity is NaN.
        tokens[row, length:] = example.tokens[0]
        predicts[row, example.first_label - 1 : length - 1] = True
    labels = predicts.sum(axis=1)
    weights = np.repeat(1.0 / labels, labels).astype(np.float32)
    return PhysicalBatch(slots, tokens, predicts, weights)
