"""Rounds that tune one LoRA factor: the other is a frozen weight, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import Sums, make_plan, random_examples, tuned_model

from fedit_secure.federation.aggregation import BOTH, Factor, places
from fedit_secure.tuning.adapter import adapter_layout, read_adapter, tune_only
from fedit_secure.tuning.job import OptimizerConfig
from fedit_secure.tuning.kept_part import divide
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


def test_a_record_more_moves_what_is_released_and_what_is_kept_by_one_clip() -> None:
    """Neighbour replay where silos keep a B of their own: one clip covers A and B, and so
    the release alone, or the B alone, moves by no more."""
    examples = random_examples(SIZE)
    model = tuned_model()
    places_of = [parts_of(model, factor) for factor in BOTH]
    sums = Sums(model, examples, clip=CLIP)
    everyone = sums.sum(np.arange(SIZE))
    for left_out in range(SIZE):
        moved = everyone - sums.sum(np.delete(np.arange(SIZE), left_out))
        assert np.linalg.norm(moved) == pytest.approx(CLIP, rel=1e-3)
        norms = [np.linalg.norm(taken(moved, parts)) for parts in places_of]
        assert 0 < min(norms) <= max(norms) < CLIP * (1 + 1e-4)
        assert np.hypot(*norms) == pytest.approx(CLIP, rel=1e-3)


def test_both_parts_have_the_noise_of_the_one_clip() -> None:
    """Its deviation is the plan's over A and over B alike: neither goes without."""
    model, clip, sigma = tuned_model(), 0.1, 3.0
    plan = make_plan(
        sample_rate=1e-9, local_steps=1, clip=clip, noise_multiplier=sigma
    )  # nobody is drawn: what moves is noise
    before, places_of = read_adapter(model), [parts_of(model, f) for f in BOTH]
    ready = prepare_round(
        model, plan, initial=before, max_tokens=64, token_budget=256, tuned=BOTH
    )
    config = OptimizerConfig(name="sgd", learning_rate=1.0)
    change = run_round(ready, random_examples(SIZE), config, noise_key=KEY)
    layout = adapter_layout(model)
    tuned = divide(layout, BOTH, ("B",), ready.initial, change)
    moved_b = tuned.kept - taken(before, places_of[1])
    expected = sigma * clip / plan.expected_batch
    for part in (tuned.update, moved_b):
        assert part.size > 200
        assert np.std(part) == pytest.approx(expected, rel=0.2)


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
