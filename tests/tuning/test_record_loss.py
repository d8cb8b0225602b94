"""The loss is a sum over records, and its shortcut equals the model's own forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import SHAPES, base_model, random_examples, tuned_model

from fedit_secure.tuning.batches import physical_batch
from fedit_secure.tuning.record_loss import (
    _WeightedCrossEntropy,
    label_logits,
    selects_labels,
    summed_loss,
)


@pytest.mark.parametrize("family", SHAPES)
def test_selected_logits_equal_the_full_forward(family: str) -> None:
    model = tuned_model(family)
    examples = random_examples(6)
    batch = physical_batch(examples, np.arange(6))
    assert selects_labels(model, batch)
    lengths = torch.tensor([len(example.tokens) for example in examples])
    with torch.no_grad():
        selected = label_logits(model, batch, selective=True)
        mask = torch.arange(batch.tokens.shape[1]) < lengths[:, None]
        full = model(torch.from_numpy(batch.tokens), attention_mask=mask).logits
    expected = full[torch.from_numpy(batch.predicts)]
    assert selected.shape == expected.shape
    assert torch.allclose(selected, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_soft_capped_logits_stay_capped() -> None:
    model = tuned_model("gemma2")
    batch = physical_batch(random_examples(6), np.arange(6))
    capped = label_logits(model, batch, selective=True)
    model.config.final_logit_softcapping = None
    free = label_logits(model, batch, selective=True)
    assert float(capped.abs().max()) <= 0.5 < float(free.abs().max())


def test_the_loss_is_the_sum_of_each_records_own_mean() -> None:
    model, examples = tuned_model(), random_examples(6)
    batch = physical_batch(examples, np.arange(6))
    expected = 0.0
    for example in examples:
        tokens = torch.from_numpy(example.tokens)[None]
        labels = tokens.clone()
        labels[0, : example.first_label] = -100
        expected += model(tokens, labels=labels).loss.item()
    for selective in (True, False):
        loss = summed_loss(model, batch, selective=selective).item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_hugging_faces_own_loss_would_couple_records() -> None:
    """Why we don't use it: another record changes the gradient of the first one."""
    model = tuned_model()
    parameter = next(p for p in model.parameters() if p.requires_grad)

    def gradient_of_first(examples: list) -> torch.Tensor:
        batch = physical_batch(examples, np.arange(len(examples)))
        labels = torch.full(batch.tokens.shape, -100)
        for row, example in enumerate(examples):
            labels[row, example.first_label : len(example.tokens)] = torch.from_numpy(
                example.tokens[example.first_label :]
            )
        tokens = torch.from_numpy(batch.tokens)
        whole = model(tokens, labels=labels).loss
        without = labels.clone()
        without[0] = -100
        count = (labels >= 0).sum()
        rest = model(tokens, labels=without).loss * (without >= 0).sum() / count
        return torch.autograd.grad(whole - rest, parameter)[0]

    first, second = random_examples(2)
    alone = gradient_of_first([first, first])
    paired = gradient_of_first([first, second])
    assert not torch.allclose(alone, paired, rtol=0.01)


class WithoutSelection(torch.nn.Module):
    """A forward that gives all logits, whatever it is asked for."""

    def __init__(self, *, refuses: bool) -> None:
        super().__init__()
        self.model, self.refuses = base_model(), refuses

    def forward(self, input_ids: torch.Tensor, **options: object) -> object:
        if self.refuses and "logits_to_keep" in options:
            raise TypeError("unexpected keyword argument 'logits_to_keep'")
        return self.model(input_ids=input_ids, use_cache=False)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_model_that_cannot_select_takes_the_full_path(*, refuses: bool) -> None:
    batch = physical_batch(random_examples(4), np.arange(4))
    model = WithoutSelection(refuses=refuses)
    assert not selects_labels(model, batch)
    full = summed_loss(model, batch, selective=False)
    assert torch.isclose(full, summed_loss(base_model(), batch, selective=True))


@pytest.mark.parametrize("labels", [1, 7, 900])
@pytest.mark.parametrize("vocabulary", [5, 3000])
def test_loss_and_gradient_are_torchs_own(labels: int, vocabulary: int) -> None:
    random = torch.Generator().manual_seed(labels)
    logits = 20 * torch.randn(labels, vocabulary, generator=random)
    targets = torch.randint(vocabulary, (labels,), generator=random)
    weights = torch.rand(labels, generator=random)
    found = []
    for of in (
        lambda x: _WeightedCrossEntropy.apply(x, targets, weights),
        lambda x: (
            torch.nn.functional.cross_entropy(x, targets, reduction="none") @ weights
        ),
    ):
        x = logits.clone().requires_grad_()
        loss = of(x)
        found.append((loss, torch.autograd.grad(3.0 * loss, x)[0]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


def test_a_logit_that_is_not_finite_spoils_its_own_row_alone() -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = torch.inf
    x = logits.requires_grad_()
    loss = _WeightedCrossEntropy.apply(x, torch.tensor([0, 1, 2]), torch.ones(3))
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient[[0, 2]].isfinite().all()
    assert not gradient[1].isfinite().all()
