"""A round takes its steps exactly, on the drawn batches, with the plan's noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Sums, make_plan, random_examples, tuned_model

from fedit_secure.errors import ConfigError
from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.privacy.sensitivity import sensitivity
from fedit_secure.tuning import local_round
from fedit_secure.tuning.adapter import attach_adapter, read_adapter
from fedit_secure.tuning.batches import Packing, poisson_units
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig, OptimizerConfig
from fedit_secure.tuning.local_round import prepare_round, run_round, tune_round

KEY = bytes(range(32))
ADAMW = OptimizerConfig(learning_rate=0.01)
EXAMPLES = random_examples(30)


def tune(plan: Any, **changes: Any) -> np.ndarray:
    model = changes.pop("model", None) or tuned_model()
    arguments = {
        "examples": EXAMPLES,
        "optimizer": ADAMW,
        "noise_key": KEY,
        "initial": read_adapter(model),
    } | changes
    return tune_round(model, plan=plan, **arguments)


def gradient_sums(plan: Any, clip: float | None) -> np.ndarray:
    """The first step's sum on the drawn batch, worked out on its own."""
    slots = poisson_units(CryptoNoise(KEY), 0, len(EXAMPLES), plan.sample_rate)
    sums = Sums(tuned_model(), EXAMPLES, clip=clip, selective=False, budget=64)
    return sums.sum(slots)


def test_a_step_is_clipped_sum_plus_noise_over_the_expected_batch() -> None:
    plan = make_plan(local_steps=1)
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0)
    update = tune(plan, optimizer=sgd)
    noised = CryptoNoise(KEY).add_grid_noise(
        gradient_sums(plan, plan.clip),
        0,
        plan.noise_multiplier,
        sensitivity(plan.clip, plan.expected_batch),
    )
    assert update.dtype == np.float32
    assert np.allclose(update, -noised / plan.expected_batch, rtol=1e-3, atol=2e-6)


def test_a_step_of_persons_has_their_coins_and_their_clip() -> None:
    units = [np.array(unit) for unit in np.array_split(np.arange(len(EXAMPLES)), 11)]
    plan = make_plan(local_steps=1, unit="person", records_per_person=3)
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0)
    update = tune(plan, optimizer=sgd, units=units)
    drawn = poisson_units(CryptoNoise(KEY), 0, len(units), plan.sample_rate)
    options = {"units": units, "packing": Packing(64, unit_rows=3)}
    total = Sums(tuned_model(), EXAMPLES, clip=plan.clip, **options).sum(drawn)
    # Clipped record by record it would be another one.
    records = np.sort(np.concatenate([units[unit] for unit in drawn]))
    apart = Sums(tuned_model(), EXAMPLES, clip=plan.clip).sum(records)
    assert np.linalg.norm(apart - total) > plan.clip
    bound = sensitivity(plan.clip, plan.expected_batch)
    noised = CryptoNoise(KEY).add_grid_noise(total, 0, plan.noise_multiplier, bound)
    assert np.allclose(update, -noised / plan.expected_batch, rtol=1e-3, atol=2e-6)


def test_the_noise_in_the_update_has_the_plans_deviation() -> None:
    """Noise off, halved or forgotten in a step shows here."""
    steps, sigma, clip, batch = 3, 2.0, 0.1, 8
    plan = make_plan(local_steps=steps, noise_multiplier=sigma, clip=clip)
    update = tune(
        plan,
        optimizer=OptimizerConfig(name="sgd", learning_rate=1e-3),
        model=tuned_model(rank=8),
    )
    # Clipped gradients are small against this noise, coordinate by coordinate.
    expected = 1e-3 * sigma * clip / batch * np.sqrt(steps)
    assert update.std() == pytest.approx(expected, rel=0.1)


def test_the_noise_is_sized_for_what_rounding_moves_as_well() -> None:
    """With so many expected records that is eleven times the clip."""
    batch = 10_000_000
    plan = make_plan(local_steps=1, sample_rate=1e-9, expected_batch=batch)
    sgd = OptimizerConfig(name="sgd", learning_rate=batch)
    noised = tune(plan, optimizer=sgd)
    bound = sensitivity(plan.clip, batch)
    assert bound == pytest.approx(11 * plan.clip)
    assert noised.std() == pytest.approx(plan.noise_multiplier * bound, rel=0.1)


def test_an_empty_batch_takes_a_step_of_noise_alone() -> None:
    plan = make_plan(local_steps=1, sample_rate=1e-9)
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0)
    update = tune(plan, optimizer=sgd)
    length = len(update)
    noised = CryptoNoise(KEY).add_grid_noise(
        np.zeros(length), 0, 1.0, sensitivity(plan.clip, plan.expected_batch)
    )
    assert np.allclose(update, -noised / 8, rtol=1e-3, atol=1e-6)
    assert update.std() == pytest.approx(plan.clip / 8, rel=0.1)


def test_without_privacy_nothing_is_clipped_or_noised() -> None:
    plan = make_plan(kind="none", local_steps=1)
    sgd = OptimizerConfig(name="sgd", learning_rate=1e-3)
    expected = -1e-3 * gradient_sums(plan, None) / plan.expected_batch
    assert np.allclose(tune(plan, optimizer=sgd), expected, rtol=1e-2, atol=1e-7)


def test_the_same_key_gives_the_same_update_and_another_one_another() -> None:
    plan = make_plan()
    first = tune(plan)
    assert np.array_equal(tune(plan), first)
    assert not np.allclose(tune(plan, noise_key=bytes(32)), first)


def test_the_token_budget_changes_nothing_but_rounding() -> None:
    plan = make_plan(local_steps=1)
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0)
    small, large = (tune(plan, optimizer=sgd, token_budget=b) for b in (1, 4096))
    assert np.linalg.norm(small - large) < 1e-4 * np.linalg.norm(large)


def test_the_batches_trained_on_are_the_ones_the_coins_drew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[list[int]] = []
    inner = BatchGradient.sum

    def watched(self: BatchGradient, units: np.ndarray, step: int = 0) -> torch.Tensor:
        if len(self._examples) == len(EXAMPLES):  # not the synthetic ones
            trained.append(units.tolist())
        return inner(self, units, step)

    monkeypatch.setattr(BatchGradient, "sum", watched)
    plan = make_plan(local_steps=5, sample_rate=0.2)
    tune(plan)
    noise = CryptoNoise(KEY)
    drawn = [noise.coins(s, len(EXAMPLES), 0.2).nonzero()[0].tolist() for s in range(5)]
    assert trained == drawn
    assert len({len(batch) for batch in trained}) > 1


def test_every_round_starts_with_a_fresh_optimizer() -> None:
    model, plan = tuned_model(), make_plan()
    initial = read_adapter(model)
    first = tune(plan, model=model, initial=initial)
    again = tune(plan, model=model, initial=initial)
    assert np.array_equal(first, again)
    assert np.allclose(read_adapter(model), initial + again, atol=1e-6)


def test_weight_decay_acts_after_the_noise() -> None:
    plan = make_plan(local_steps=1)
    plain, decayed = (
        tune(plan, optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=w))
        for w in (0.0, 0.5)
    )
    initial = read_adapter(tuned_model())
    assert np.allclose(decayed - plain, -0.01 * 0.5 * initial, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizers_follow_their_configuration(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OptimizerConfig(
        name=name,
        learning_rate=0.02,
        weight_decay=0.1,
        betas=(0.8, 0.95),
        eps=1e-6,
        momentum=0.5,
        b_rate_ratio=5.0,
    )
    named = [
        (f"layer.lora_{factor}.weight", torch.nn.Parameter(torch.zeros(3)))
        for factor in "AB"
    ]
    made = local_round._optimizer(named, config)
    assert [group["lr"] for group in made.param_groups] == [0.02, 0.1]
    assert [group["params"] for group in made.param_groups] == [[p] for _, p in named]
    for group in made.param_groups:
        assert group["weight_decay"] == 0.1
        if name == "sgd":
            assert group["momentum"] == 0.5
        else:
            assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)


def test_the_proximal_term_pulls_back_to_where_the_round_began() -> None:
    """At a rate of 0.5 and mu of 2 each step without gradient goes all the way back."""
    anchor = torch.tensor([1.0, -2.0])
    weight = torch.nn.Parameter(anchor + torch.tensor([0.3, 0.7]))
    config = OptimizerConfig(name="sgd", learning_rate=0.5, proximal=2.0)
    descent = local_round._optimizer([("layer.lora_A.weight", weight)], config)
    weight.grad = torch.zeros(2)
    local_round._pull_back([weight], [anchor], config.proximal)
    descent.step()
    torch.testing.assert_close(weight.detach(), anchor)


def test_a_larger_proximal_term_moves_less() -> None:
    examples = [Example(np.arange(10, 30), 5)] * 16
    plan = make_plan(kind="none", local_steps=15, expected_batch=8)
    moved = []
    for proximal in (0.0, 50.0):
        update = tune_round(
            tuned_model(),
            examples,
            plan,
            OptimizerConfig(name="sgd", learning_rate=0.02, proximal=proximal),
            noise_key=b"k" * 32,
            initial=read_adapter(tuned_model()),
        )
        moved.append(float(np.linalg.norm(update)))
    assert moved[1] < 0.8 * moved[0]


def test_learning_learns() -> None:
    """Without noise, the loss on a repeated record falls."""
    examples = [Example(np.arange(10, 30), 5)] * 16
    plan = make_plan(kind="none", local_steps=15, expected_batch=8)
    model = tuned_model()
    tokens = torch.from_numpy(examples[0].tokens)[None]
    losses = []
    for _ in range(2):
        with torch.no_grad():
            losses.append(float(model(tokens, labels=tokens).loss))
        tune(plan, model=model, examples=examples)
    assert losses[1] < 0.85 * losses[0]


def test_dropout_drops_with_privacy_and_without() -> None:
    from tiny_models import base_model

    def dropping() -> Any:
        return attach_adapter(base_model(), LoraConfig(rank=2, dropout=0.4))

    model = dropping()
    initial = np.random.default_rng(0).normal(0, 0.1, read_adapter(model).shape)
    initial = initial.astype("f4")
    for plan in (make_plan(), make_plan(kind="none")):
        first, again = (tune(plan, model=dropping(), initial=initial) for _ in range(2))
        assert np.array_equal(first, again)  # the key seeds the masks
        still = attach_adapter(base_model(), LoraConfig(rank=2))
        assert not np.allclose(first, tune(plan, model=still, initial=initial))
    # Without noise and with everybody drawn, the masks are all that the key decides.
    plan = make_plan(kind="none", sample_rate=1.0)
    first, other = (
        tune(plan, model=dropping(), initial=initial, noise_key=key)
        for key in (KEY, bytes(32))
    )
    assert not np.allclose(first, other)


def test_nothing_is_sampled_before_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a record was sampled")

    monkeypatch.setattr(CryptoNoise, "coins", forbidden)
    model = tuned_model()
    ready = prepare_round(
        model, make_plan(), initial=read_adapter(model), max_tokens=32
    )
    with pytest.raises(AssertionError, match="a record was sampled"):
        run_round(ready, EXAMPLES, ADAMW, noise_key=KEY)


def test_a_round_is_not_ready_with_a_model_that_couples_records() -> None:
    model = tuned_model()
    model.base_model.model.model.layers[0].mlp.register_forward_hook(
        lambda _module, _inputs, y: y - y.mean(dim=0, keepdim=True)
    )
    with pytest.raises(ConfigError, match="mixes the records of a batch"):
        prepare_round(model, make_plan(), initial=read_adapter(model), max_tokens=32)


def test_a_ready_model_is_not_in_training_mode() -> None:
    """Where it is, the base model's own dropout draws one mask for a whole batch."""
    model = tuned_model("gpt2").train()
    ready = prepare_round(
        model, make_plan(), initial=read_adapter(model), max_tokens=32
    )
    assert not any(module.training for module in ready.model.modules())


def test_a_round_is_ready_with_a_budget_that_was_tried() -> None:
    model = tuned_model()

    def too_large(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].numel() > 150:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(too_large)
    ready = prepare_round(
        model,
        make_plan(unit="person", records_per_person=2),
        initial=read_adapter(model),
        max_tokens=32,
        token_budget=512,
        unit_rows=2,
    )
    assert ready.packing.unit_rows == 2
    assert ready.packing.token_budget <= 150 < 2 * ready.packing.token_budget


def test_the_model_is_left_clean_after_a_failure() -> None:
    model = tuned_model()
    ready = prepare_round(
        model, make_plan(), initial=read_adapter(model), max_tokens=32
    )
    broken = dataclasses.replace(ready, steps=dataclasses.replace(ready.steps, steps=3))

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_round(broken, EXAMPLES, ADAMW, noise_key=KEY, on_phase=stop)
    assert not any(module.training for module in model.modules())
    assert not any(hasattr(p, "grad_sample") for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())
