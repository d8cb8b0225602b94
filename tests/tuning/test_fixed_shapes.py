"""Below float32 every physical batch has a public shape, and nobody moves a bit of others'.

In bfloat16 another padding or another number of rows may round a record's gradient
otherwise, by a hundredth of its norm with some kernels: the noise doesn't cover that.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_models import Sums, make_plan, random_examples, tuned_model
from torch import nn

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.tuning import dp_step
from fedit_secure.tuning.adapter import read_adapter
from fedit_secure.tuning.batches import Packing, physical_batch
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.local_round import prepare_round
from fedit_secure.tuning.preflight import check_model

FIXED = Packing.fixed(160, 40)
CLIP = 0.05


def half_model() -> PeftModel:
    """A bfloat16 base with a float32 adapter."""
    model = tuned_model()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    return model


def summed(examples: list[Example], slots: list[int], packing: Packing) -> np.ndarray:
    sums = Sums(half_model(), examples, clip=CLIP, selective=False, packing=packing)
    return sums.sum(np.array(slots))


def test_shapes_come_from_a_public_list() -> None:
    assert FIXED.lengths == (5, 10, 15, 20, 25, 30, 35, 40)
    assert [FIXED.padded(n) for n in (1, 5, 6, 39, 40)] == [5, 5, 10, 40, 40]
    assert Packing.fixed(100, 3).lengths == (1, 2, 3)


def test_every_batch_has_as_many_rows_as_its_length_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []

    def watched(*args: object) -> object:
        batch = physical_batch(*args)  # type: ignore[arg-type]
        shapes.append(batch.tokens.shape)
        return batch

    monkeypatch.setattr(dp_step, "physical_batch", watched)
    examples = random_examples(17, longest=40)
    summed(examples, list(range(17)), FIXED)
    assert {length for _, length in shapes} <= set(FIXED.lengths)
    assert all(rows == FIXED.rows(length) for rows, length in shapes)


def test_a_neighbour_changes_the_sum_by_its_own_row_alone() -> None:
    """Bit for bit: what is left of the others is the same sum of float64."""
    examples = random_examples(17, longest=40)
    others = [slot for slot in range(17) if slot != 4]
    for victim in (examples[4], Example(np.full(40, 299), 1)):
        data = [*examples[:4], victim, *examples[5:]]
        whole, rest = summed(data, list(range(17)), FIXED), summed(data, others, FIXED)
        alone = summed(data, [4], FIXED)
        assert np.abs(whole - rest - alone).max() < 1e-14
        assert np.linalg.norm(whole - rest) <= CLIP * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["local", "none"])
def test_a_base_below_float32_gets_them_and_no_other(kind: str) -> None:
    for model, fixed in ((half_model(), True), (tuned_model(), False)):
        ready = prepare_round(
            model,
            make_plan(kind=kind),
            initial=read_adapter(model),
            max_tokens=40,
            token_budget=160,
        )
        assert ready.packing == (FIXED if fixed else Packing(160))
        # The number of labels would be one more shape.
        assert ready.selective is not fixed


class LooksAtPlaces(nn.Module):
    """Gives the rows at some places of a batch a little more."""

    def __init__(self, inner: nn.Module, places: slice) -> None:
        super().__init__()
        self.inner, self.places = inner, places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        share = torch.ones(len(y))
        share[self.places] = 1.05
        return y * share[:, None, None].to(y.dtype)


@pytest.mark.parametrize("places", [slice(2, None), slice(20, 21)])
def test_a_device_that_rounds_by_place_is_refused(places: slice) -> None:
    model = half_model()
    layer = model.base_model.model.model.layers[0]
    norm = layer.post_attention_layernorm
    layer.post_attention_layernorm = LooksAtPlaces(norm, places)
    with pytest.raises(ConfigError, match=r"with its place .* use precision float32"):
        check_model(model, read_adapter(model), 64, fixed=True)


class LooksAtOthers(nn.Module):
    """Scales all logits by the largest of the batch, wherever that one is: so little
    that a gradient moves by less than what gives away a model that mixes records."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head, self.weight = head, head.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x).float()
        return y * (1 + 1.5e-5 * y.detach().amax())


def test_a_device_that_rounds_by_company_is_refused() -> None:
    model = half_model()
    inner = model.base_model.model
    inner.lm_head = LooksAtOthers(inner.lm_head)
    with pytest.raises(ConfigError, match=r"with the others .* use precision float32"):
        check_model(model, read_adapter(model), 64, fixed=True)


@pytest.mark.parametrize("failures", [1, 2])
def test_memory_that_runs_out_never_changes_a_shape(failures: int) -> None:
    examples, model, left = random_examples(9, longest=40), half_model(), failures
    expected = summed(examples, list(range(9)), FIXED)

    def fail(*_: object) -> None:
        nonlocal left
        if left:
            left -= 1
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(fail)
    sums = Sums(model, examples, clip=CLIP, selective=False, packing=FIXED)
    if failures == 1:
        assert np.array_equal(sums.sum(np.arange(9)), expected)
        assert sums.packing == FIXED
        return
    with pytest.raises(TuningFailed, match="doesn't fit into memory"):
        sums.sum(np.arange(9))
