"""Neighbour replay: D against D with one record zeroed, under the same key.

What one record can change is what the guarantee is about: before the noise, the sums
are at most C(1 + 1e-4) apart, and everything else that can be seen (steps, coins, noise
draws, what the parent is told, the update's length) is the same.
"""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import SHAPES, Sums, make_plan, random_examples, tuned_model

from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning import local_round
from fedit_secure.tuning.adapter import read_adapter
from fedit_secure.tuning.batches import poisson_units
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import OptimizerConfig, Progress
from fedit_secure.tuning.local_round import tune_round

KEY = bytes(range(32))
SIZE = 40
RATES = {"empty": 0.0, "one": 0.01, "normal": 0.3, "huge": 1.0}


def zeroed(examples: list[Example], slot: int) -> list[Example]:
    """The neighbour: the record's place is kept, its content is gone."""
    neighbour = list(examples)
    neighbour[slot] = Example(examples[slot].tokens[:1], 1)
    return neighbour


def drawn(batch: str) -> np.ndarray:
    """The logical batch of the first step that has the wanted size."""
    noise, rate = CryptoNoise(KEY), RATES[batch]
    for step in range(500):
        slots = poisson_units(noise, step, SIZE, rate)
        if batch != "one" or len(slots) == 1:
            return slots
    raise AssertionError("no such batch")


def extreme(examples: list[Example], slot: int) -> list[Example]:
    """A record as long and as strange as can be."""
    changed = list(examples)
    changed[slot] = Example(np.full(100, 299), 1)
    return changed


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("batch", RATES)
@pytest.mark.parametrize("clip", [0.05, 50.0])
def test_sums_before_noise_are_within_the_clip(
    family: str, batch: str, clip: float
) -> None:
    model, slots = tuned_model(family), drawn(batch)
    records = random_examples(SIZE)
    victims = [int(s) for s in (slots[:2] if len(slots) else [3])]
    for victim in victims:
        for examples in (records, extreme(records, victim)):
            sums = []
            for data in (examples, zeroed(examples, victim)):
                gradient = Sums(model, data, clip=clip, budget=128)
                sums.append(gradient.sum(slots))
                gradient.close()
            distance = np.linalg.norm(sums[0] - sums[1])
            assert distance <= clip * (1 + 1e-4)
            if clip == 0.05 and len(slots):
                # The bound is tight: the record was in the batch, and was clipped.
                assert distance >= clip * (1 - 1e-3)


class Witness(CryptoNoise):
    """Writes down every use of the key."""

    log: list[tuple[object, ...]] = []  # noqa: RUF012 - one list a test

    def coins(self, step: int, slots: int, rate: float) -> np.ndarray:
        """As the parent's; noted with its result."""
        coins = super().coins(step, slots, rate)
        self.log.append(("coins", step, slots, rate, coins.tobytes()))
        return coins

    def normals(self, step: int, start: int, count: int) -> np.ndarray:
        """As the parent's; noted with its result."""
        normals = super().normals(step, start, count)
        self.log.append(("normals", step, start, count, normals.tobytes()))
        return normals


@pytest.mark.parametrize("batch", RATES)
def test_everything_else_is_the_same(
    batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_round, "CryptoNoise", Witness)
    rate = max(RATES[batch], 1e-9)
    plan = make_plan(sample_rate=rate, local_steps=4)
    records = random_examples(SIZE)
    seen = []
    for examples in (
        records,
        zeroed(records, 7),
        extreme(records, 7),
        zeroed(zeroed(records, 7), 8),
    ):
        model = tuned_model()
        Witness.log = []
        told: list[Progress] = []
        update = tune_round(
            model,
            examples,
            plan,
            OptimizerConfig(learning_rate=0.01),
            noise_key=KEY,
            initial=read_adapter(model),
            max_tokens=100,
            on_phase=told.append,
        )
        seen.append((Witness.log, told, update.shape, update.dtype))
    assert all(one == seen[0] for one in seen[1:])
    uses = [(entry[0], entry[1]) for entry in seen[0][0]]
    assert uses == [(use, step) for step in range(4) for use in ("coins", "normals")]
    assert seen[0][1] == [Progress("tuning", step, 4) for step in (1, 2, 3, 4)]
