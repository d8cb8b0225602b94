"""Dropout masks are a record's own: nobody else changes them, and they cost no privacy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import Sums, base_model, random_examples, tuned_model

from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.batches import Packing
from fedit_secure.tuning.dropout import RecordDropout, dropouts
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig

KEY = bytes(range(32))


def dropping(p: float = 0.3) -> PeftModel:
    model = attach_adapter(base_model(), LoraConfig(rank=3, dropout=p))
    vector = np.random.default_rng(3).normal(0, 0.3, read_adapter(model).shape)
    write_adapter(model, vector.astype("f4"))
    return model


def summed(model: PeftModel, examples: list[Example], units: list[int], step: int = 0,
           **options: object) -> np.ndarray:  # fmt: skip
    options.setdefault("dropout_key", KEY)
    sums = Sums(model, examples, clip=1e9, **options)  # type: ignore[arg-type]
    total = sums.sum(np.array(units), step)
    sums.close()
    return total


def test_a_records_masks_do_not_depend_on_the_others() -> None:
    model, examples = dropping(), random_examples(8)
    everyone = summed(model, examples, list(range(8)), budget=10_000)
    alone = sum(summed(model, examples, [slot]) for slot in range(8))
    assert np.linalg.norm(everyone - alone) < 1e-4 * np.linalg.norm(alone)


def test_torchs_own_masks_would_change_with_the_others() -> None:
    """Why we don't use them."""
    entered = torch.ones(2, 4, 50)

    def of_last(rows: int) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.nn.Dropout(0.5).train()(entered[-rows:])[-1]

    assert not torch.equal(of_last(1), of_last(2))


def test_every_step_record_and_layer_has_its_own_masks() -> None:
    first, second = RecordDropout(0.5, "one"), RecordDropout(0.5, "two")
    entered = torch.ones(2, 6, 40)
    for dropout in (first, second):
        dropout.drawn([(b"seed-1", 6), (b"seed-2", 5)])
    out, other = first(entered), second(entered)
    assert torch.equal(first(entered), out)
    assert not torch.equal(out, other)
    assert not torch.equal(out[0], out[1])
    assert set(out[0].unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out[1, 5], entered[1, 5])  # padding: nobody reads it
    model, examples = dropping(), random_examples(3)
    steps = [summed(model, examples, [0, 1, 2], step) for step in (0, 1)]
    assert not np.allclose(*steps)


def test_a_mask_is_of_its_slot_its_step_and_its_key() -> None:
    model, twins = dropping(), random_examples(1) * 2
    first = summed(model, twins, [0])
    assert np.array_equal(summed(model, twins, [0]), first)
    for other in (
        summed(model, twins, [1]),  # the same content in another place
        summed(model, twins, [0], step=1),
        summed(model, twins, [0], dropout_key=bytes(32)),
    ):
        assert np.linalg.norm(other - first) > 0.1 * np.linalg.norm(first)


def test_the_share_that_is_dropped_is_p() -> None:
    dropout = RecordDropout(0.2, "one")
    dropout.drawn([(b"seed", 1000)])
    out = dropout(torch.ones(1, 1000, 100))
    assert float((out == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.01)


def test_outside_of_a_pass_nothing_is_dropped() -> None:
    model, tokens = dropping(), torch.arange(3, 20)[None]
    assert len(dropouts(model)) == 7
    with torch.no_grad():
        before = model(tokens).logits
    summed(model, random_examples(3), [0, 1, 2])
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, before)
    assert not dropouts(tuned_model())


def test_a_longer_neighbour_changes_no_mask() -> None:
    model, examples = dropping(), random_examples(4, longest=12)
    longer = [*examples[:3], Example(np.full(60, 7), 1)]
    rest = [
        summed(model, data, [0, 1, 2, 3], packing=Packing(10_000))
        - summed(model, data, [3])
        for data in (examples, longer)
    ]
    assert np.linalg.norm(rest[0] - rest[1]) < 1e-4 * np.linalg.norm(rest[0])
