"""Pitfalls of docs/privacy.md that no other test mounts as such."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_models import Sums, make_plan, random_examples, tuned_model

from fedit_secure.config import PlanFile
from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning import dp_step
from fedit_secure.tuning.adapter import read_adapter
from fedit_secure.tuning.batches import physical_batch, poisson_units
from fedit_secure.tuning.job import LoraConfig, OptimizerConfig
from fedit_secure.tuning.local_round import tune_round

KEY = bytes(range(32))
SGD = OptimizerConfig(name="sgd", learning_rate=1.0)
RATE = 0.4


def noise_in(records: int) -> np.ndarray:
    """What one step moves beyond its clipped sum over B: of so many records."""
    plan = make_plan(local_steps=1, sample_rate=RATE)
    model, examples = tuned_model(), random_examples(records)
    sums = Sums(tuned_model(), examples, clip=plan.clip, budget=512)
    total = sums.sum(poisson_units(CryptoNoise(KEY), 0, records, RATE))
    update = tune_round(
        model,
        examples,
        plan,
        SGD,
        noise_key=KEY,
        initial=read_adapter(model),
        max_tokens=20,
    )
    return -update * plan.expected_batch - total


def test_the_divisor_does_not_know_how_many_records_there_are_or_were_drawn() -> None:
    """With the divisor B the same noise is left, whatever the data set and the batch."""
    sizes = (3, 12, 40)
    noise = CryptoNoise(KEY)
    assert len({len(poisson_units(noise, 0, n, RATE)) for n in sizes}) == 3
    first, *others = (noise_in(n) for n in sizes)
    assert first.std() > 0.05
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("budget", [1, 30, 4096])
def test_a_record_enters_a_step_once_however_its_batch_is_split(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, examples = make_plan(local_steps=3), random_examples(30)
    entered: list[int] = []

    def watched(all_examples: object, slots: np.ndarray, packing: object) -> object:
        if all_examples is examples:  # not the synthetic ones
            entered.extend(slots.tolist())
        return physical_batch(all_examples, slots, packing)  # type: ignore[arg-type]

    monkeypatch.setattr(dp_step, "physical_batch", watched)
    model = tuned_model()
    tune_round(
        model,
        examples,
        plan,
        SGD,
        noise_key=KEY,
        initial=read_adapter(model),
        token_budget=budget,
    )
    noise = CryptoNoise(KEY)
    drawn = [poisson_units(noise, s, 30, plan.sample_rate).tolist() for s in range(3)]
    assert sorted(entered) == sorted(slot for slots in drawn for slot in slots)


@pytest.mark.parametrize("initial", ["eva", "corda", "lora_ga", "pissa", "olora"])
def test_no_option_initialises_lora_from_data(initial: str) -> None:
    with pytest.raises(ValidationError, match="init_lora_weights"):
        LoraConfig(init_lora_weights=initial)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="init_lora_weights"):
        PlanFile.model_validate({"lora": {"init_lora_weights": initial}}, context={})


def test_no_other_generator_has_a_part_in_coins_and_noise() -> None:
    """Neither torch's Philox nor numpy's or Python's Mersenne Twister: in whatever state
    they are, the update is the same, and they are left as they were."""
    updates = []
    for seed in (1, 2):
        model = tuned_model()
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the generator that must have no part
        before = torch.get_rng_state(), twister()
        updates.append(
            tune_round(
                model,
                random_examples(12),
                make_plan(),
                SGD,
                noise_key=KEY,
                initial=read_adapter(model),
            )
        )
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(twister(), before[1])
    assert np.array_equal(*updates)


def twister() -> np.ndarray:
    """The state of numpy's Mersenne Twister."""
    return np.array(np.random.get_state()[1])  # noqa: NPY002
