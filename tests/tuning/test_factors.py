"""Rounds that tune one LoRA factor: the other is a frozen weight, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import Sums, make_plan, random_examples, tuned_model

from fedit_secure.federation.aggregation import BOTH, Factor, places
from fedit_secure.tuning.adapter import adapter_layout, read_adapter, tune_only
from fedit_secure.tuning.job import OptimizerConfig
from fedit_secure.tuning.local_round import prepare_round, run_round

CLIP, SIZE, KEY = 0.05, 12, b"k" * 32
one_factor = pytest.mark.parametrize("factor", BOTH)


def parts_of(model, factor: Factor) -> tuple[slice, ...]:
    return places(adapter_layout(model), (factor,))


def taken(vector: np.ndarray, parts: tuple[slice, ...]) -> np.ndarray:
    return np.concatenate([vector[part] for part in parts])


@one_factor
def test_its_gradient_is_its_part_of_the_whole(factor: Factor) -> None:
    examples, everyone = random_examples(SIZE), np.arange(SIZE)
    model = tuned_model()
    parts = parts_of(model, factor)
    both = Sums(model, examples, clip=1e9)
    whole = both.sum(everyone)
    both.close()
    tune_only(model, (factor,))
    alone = Sums(model, examples, clip=1e9).sum(everyone)
    np.testing.assert_allclose(alone, taken(whole, parts), rtol=1e-5, atol=1e-6)


@one_factor
def test_a_record_more_moves_the_sum_by_the_clip_at_most(factor: Factor) -> None:
    """Neighbour replay: the clip is of what is tuned, and nothing of it is lost."""
    examples = random_examples(SIZE)
    model = tuned_model()
    tune_only(model, (factor,))
    sums = Sums(model, examples, clip=CLIP)
    everyone = sums.sum(np.arange(SIZE))
    for left_out in range(SIZE):
        others = np.delete(np.arange(SIZE), left_out)
        moved = np.linalg.norm(everyone - sums.sum(others))
        assert moved == pytest.approx(CLIP, rel=1e-3)


@one_factor
def test_a_round_changes_it_alone(factor: Factor) -> None:
    model, examples = tuned_model(), random_examples(SIZE)
    before, parts = read_adapter(model), parts_of(model, factor)
    ready = prepare_round(
        model,
        make_plan(sample_rate=0.5, local_steps=3),
        initial=before,
        max_tokens=64,
        token_budget=256,
        tuned=(factor,),
    )
    assert ready.initial.shape == (sum(p.stop - p.start for p in parts),)
    config = OptimizerConfig(learning_rate=0.01)
    update = run_round(ready, examples, config, noise_key=KEY)
    tune_only(model, BOTH)
    after = read_adapter(model)
    assert update.shape == ready.initial.shape
    assert (update != 0).all()
    moved = taken(after, parts) - ready.initial
    np.testing.assert_array_equal(moved, update)
    other = parts_of(model, "B" if factor == "A" else "A")
    np.testing.assert_array_equal(taken(after, other), taken(before, other))


def test_the_next_round_tunes_the_other_again() -> None:
    model = tuned_model()
    plan = make_plan(sample_rate=0.5, local_steps=1)
    for factor in ("B", "A", "B"):
        tune_only(model, BOTH)
        initial = read_adapter(model)
        ready = prepare_round(
            model,
            plan,
            initial=initial,
            max_tokens=64,
            token_budget=256,
            tuned=(factor,),
        )
        keys = [key for key, _ in adapter_layout(model)]
        assert all(f".lora_{factor}." in key for key in keys)
        assert ready.initial.size < initial.size
