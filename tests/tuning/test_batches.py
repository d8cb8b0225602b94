"""Sampling is Poisson and by slot; physical batches lose nobody and waste little."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import random_examples

from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning.batches import (
    Packing,
    physical_batch,
    poisson_units,
    split_by_length,
)
from fedit_secure.tuning.examples import Example

KEY = bytes(range(32))


def test_slots_are_those_whose_coin_came_up() -> None:
    noise = CryptoNoise(KEY)
    for step in range(5):
        slots = poisson_units(noise, step, 200, 0.2)
        assert np.array_equal(noise.coins(step, 200, 0.2).nonzero()[0], slots)
        assert slots.dtype == np.int64
    assert len(poisson_units(noise, 0, 200, 1.0)) == 200
    assert len(poisson_units(noise, 0, 0, 0.5)) == 0


@pytest.mark.parametrize("budget", [1, 7, 30, 100, 10_000])
def test_groups_partition_the_batch_within_the_budget(budget: int) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 40, 300)
    slots = np.flatnonzero(random.random(300) < 0.3)
    groups = split_by_length(lengths, slots, Packing(budget))
    assert np.array_equal(np.sort(np.concatenate(groups)), slots)
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= budget
    longest = [lengths[g].max() for g in groups]
    assert longest == sorted(longest, reverse=True)


def test_sorting_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 120, 256).clip(20, 512)
    slots = np.arange(256)

    def padded(groups: list[np.ndarray]) -> int:
        return sum(len(g) * int(lengths[g].max()) for g in groups)

    drawn_order = [slots[k : k + 8] for k in range(0, 256, 8)]
    assert padded(drawn_order) > 1.8 * lengths.sum()
    assert padded(split_by_length(lengths, slots, Packing(1024))) < 1.1 * lengths.sum()


def test_no_slots_are_no_groups() -> None:
    assert split_by_length(np.array([3, 4]), np.array([], np.int64), Packing(10)) == []


def test_a_batch_pads_and_marks_what_predicts_a_label() -> None:
    examples = [Example(np.array([5, 6, 7, 8]), 2), Example(np.array([9, 10]), 1)]
    batch = physical_batch(examples, np.array([1, 0]))
    assert batch.tokens.tolist() == [[9, 10, 9, 9], [5, 6, 7, 8]]
    # The logits at position t - 1 predict the token at t.
    assert batch.predicts.tolist() == [
        [True, False, False, False],
        [False, True, True, False],
    ]
    assert batch.weights.tolist() == [1.0, 0.5, 0.5]


def test_every_record_weighs_one() -> None:
    batch = physical_batch(random_examples(30), np.arange(30))
    rows = batch.predicts.nonzero()[0]
    assert np.allclose(np.bincount(rows, weights=batch.weights), 1.0)
