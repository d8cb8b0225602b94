"""The canaries' model, and every detector on the right build and on its broken one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from _broken_builds import broken

from fedit_secure.audit.canary import detections as d
from fedit_secure.audit.canary import trials
from fedit_secure.audit.canary.build import synthetic_records
from fedit_secure.audit.canary.model import (
    BYTES,
    COORDINATES,
    CanaryModel,
    canary_example,
    directions,
    left_out,
)
from fedit_secure.audit.canary.rounds import CLIP, MOST_TOKENS, plan_of, run
from fedit_secure.privacy.events import Intent
from fedit_secure.tuning.batches import Packing
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.records import Record

CANARIES = 2000  # a quarter of the noise escapes guesses about them once in 20,000
GUESSES = 800


@pytest.fixture(scope="module")
def model() -> CanaryModel:
    torch.set_num_threads(1)
    return CanaryModel(CANARIES, seed=1)


@pytest.fixture(scope="module")
def texts() -> list:
    return [trials.text_example(record) for record in synthetic_records(1)[:12]]


def gradient(model: CanaryModel, example, clip: float | None) -> np.ndarray:
    sums = BatchGradient(
        model.tuned, [example], clip=clip, selective=False, packing=Packing(64)
    )
    try:
        return sums.sum(np.arange(1)).numpy()
    finally:
        sums.close()


def test_directions_are_orthonormal_and_spread_evenly() -> None:
    rows = directions(400, seed=3)
    np.testing.assert_allclose(rows @ rows.T, np.eye(400), atol=1e-12)
    assert np.unique(np.abs(rows)).size == 1
    assert not np.array_equal(rows, directions(400, seed=4))


def test_a_canary_is_far_beyond_the_clip_and_exactly_its_own_direction(model) -> None:
    for canary in (0, 7, CANARIES - 1):
        whole = gradient(model, canary_example(canary), None)
        assert np.linalg.norm(whole) >= 10 * CLIP
        clipped = gradient(model, canary_example(canary), CLIP)
        np.testing.assert_allclose(clipped, -CLIP * model.rows[canary], atol=1e-6)
    assert not gradient(model, left_out(canary_example(3)), CLIP).any()


def test_a_round_shows_what_was_added_and_nothing_outside(model, texts) -> None:
    examples = [canary_example(0), canary_example(1), *texts]
    seen = run(model, examples, plan_of(rate=1.0, sigma=1e-6, steps=2))
    assert seen.told == 2
    np.testing.assert_allclose(seen.sums @ model.rows[:3].T, [[1, 1, 0]] * 2, atol=1e-3)
    np.testing.assert_allclose(seen.sums.sum(axis=0), seen.total, atol=1e-3)
    assert np.abs(model.outside(seen.sums)).max() < 1e-4
    assert model.outside_dimensions == COORDINATES - CANARIES - BYTES - 1


def test_a_text_keeps_its_prompt_and_its_response() -> None:
    example = trials.text_example(Record("a" * 100, "", "é" * 100))
    assert len(example.tokens) == MOST_TOKENS
    assert example.labels == MOST_TOKENS // 2
    assert example.tokens.max() < BYTES
    short = trials.text_example(Record("hi", "you", "yes"))
    assert bytes(short.tokens.tolist()) == b"hi youyes"
    assert short.first_label == 6


@pytest.mark.parametrize("count", [0, COORDINATES])
def test_so_many_canaries_are_no_game(count: int) -> None:
    with pytest.raises(ValueError, match=f"canaries is {count}, but must be in 1"):
        CanaryModel(count, 0)


# ------------------------------------------------------------ detectors, build by build


def guesses(model, texts):
    there = np.random.default_rng(5).random(CANARIES) < 0.5
    return trials.game(model, texts, there, guesses=GUESSES, delta=1e-5).detection


def scale(model, texts):
    noise = trials.noise_of_steps(model, texts)
    dimensions = model.outside_dimensions
    return d.noise_scale(noise, dimensions, sigma=trials.SIGMA, coordinates=COORDINATES)


def reuse(model, texts):
    noise = trials.noise_of_steps(model, texts)
    return d.noise_reuse([(noise, model.outside_dimensions)])


def sampling(model, texts):
    return trials.sampling(model)


def clip(model, texts):
    return trials.clip(model, texts)


def steps(model, texts):
    return trials.step_count(model, texts, {})


DETECTORS = (guesses, scale, reuse, sampling, clip, steps)


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_right_build_passes(model, texts, detector) -> None:
    found = detector(model, texts)
    assert not found.flags, found


@pytest.mark.parametrize(
    ("build", "detector"),
    [
        ("noise-off", guesses),
        ("noise-off", scale),
        ("noise-halved", scale),
        ("noise-quartered", guesses),
        ("noise-quartered", scale),
        ("noise-reused-in-steps", reuse),
        ("clip-off", clip),
        ("clip-off", guesses),
        ("batches-shuffled", sampling),
        ("rate-doubled", sampling),
        ("steps-miscounted", steps),
    ],
)
def test_a_broken_build_is_flagged_by_its_detector(
    model, texts, build, detector
) -> None:
    with broken(build):
        assert detector(model, texts).flags


def test_a_charge_for_fewer_steps_than_planned_is_flagged(
    model, texts, monkeypatch
) -> None:
    right = Intent.event
    monkeypatch.setattr(
        Intent, "event", lambda s: right(s.model_copy(update={"steps": s.steps - 1}))
    )
    assert trials.step_count(model, texts, {}).flags


def test_another_rounds_count_is_held_against_the_plan(model, texts) -> None:
    worker = {"told_by_the_worker": trials.STEPS + 1}
    assert trials.step_count(model, texts, worker).flags


def test_noise_that_misses_a_part_of_the_coordinates_is_flagged(
    model, texts, monkeypatch
) -> None:
    from fedit_secure.privacy.noise import CryptoNoise

    right = CryptoNoise.add_grid_noise

    def half(self, total, *given, **options):
        out = right(self, total, *given, **options)
        out[: len(out) // 2] = total[: len(out) // 2]
        return out

    monkeypatch.setattr(CryptoNoise, "add_grid_noise", half)
    assert scale(model, texts).flags


def test_an_empty_batch_without_noise_is_flagged(model, texts, monkeypatch) -> None:
    """Skipping the noise wherever a batch is empty: here every batch is."""
    from fedit_secure.privacy.noise import CryptoNoise

    right = CryptoNoise.add_grid_noise

    def skipping(self, total, *given, **options):
        return right(self, total, *given, **options) if total.any() else total

    monkeypatch.setattr(CryptoNoise, "add_grid_noise", skipping)
    empty = [left_out(text) for text in texts]
    assert scale(model, empty).flags
