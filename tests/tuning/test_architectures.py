"""The architecture matrix: every row is tuned per record, exactly, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_row import REFUSED_EXPERTS, Row, build
from architectures import ROWS
from peft import PeftModel
from tiny_models import Sums, random_examples
from torch.nn import functional

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import (
    adapter_parameters,
    attach_adapter,
    read_adapter,
    write_adapter,
)
from fedit_secure.tuning.batches import physical_batch
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.preflight import check_model
from fedit_secure.tuning.record_gradients import RecordGradients
from fedit_secure.tuning.record_loss import summed_loss
from fedit_secure.tuning.refusals import refuse_coupled_records, refuse_kind

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
CLIP = 0.05

# Relative to a record's gradient. A float32 result is 6e-8 off; a dozen layers of large
# random weights and another order of summation (padding, grouping, W + s B A in one) make
# 1e-7 to 1e-5 of it, 1.9e-4 at worst (Ministral 3, a record whose terms nearly cancel).
# Whatever is wrong in kind, such as a layer left out or a logit not capped, is 1e-2 and
# more.
ROUNDING = 5e-4

CASES = [
    pytest.param(row, targets, refusal, id=f"{row.name}-{how}")
    for row in ROWS
    for how, targets, refusal in (
        ("all", "all-linear", row.all_linear),
        ("named", row.targets, row.named),
    )
]
TUNED = [row for row in ROWS if not row.named]


def tuned_model(row: Row, targets: str | tuple[str, ...]) -> PeftModel:
    """The row's model with an adapter whose A and B are both away from zero."""
    model = build(row)
    refuse_kind(model.config)
    refuse_coupled_records(model)
    lora = LoraConfig(rank=3, alpha=6, targets=targets)  # type: ignore[arg-type]
    tuned = attach_adapter(model, lora)
    random = np.random.default_rng(3)
    vector = random.normal(0, 0.2, read_adapter(tuned).shape).astype("f4")
    write_adapter(tuned, vector)
    return tuned


def checked_model(row: Row, targets: str | tuple[str, ...]) -> tuple[PeftModel, bool]:
    """As `tuned_model`, after the preflight, with what that says of the logits."""
    model = tuned_model(row, targets)
    return model, check_model(model, read_adapter(model), 64)


def best_model(row: Row) -> PeftModel:
    return tuned_model(row, row.targets if row.all_linear else "all-linear")


def one_by_one(model: PeftModel, examples: list[Example]) -> torch.Tensor:
    """Each record's gradient by plain autograd, alone, through the full forward."""
    parameters = [parameter for _, parameter in adapter_parameters(model)]
    rows = []
    for example in examples:
        tokens = torch.from_numpy(example.tokens)
        logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        first = example.first_label
        loss = functional.cross_entropy(logits[first - 1 : -1], tokens[first:])
        gradients = torch.autograd.grad(loss, parameters)
        rows.append(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    return torch.stack(rows).double()


@pytest.mark.parametrize(("row", "targets", "refusal"), CASES)
def test_every_row_is_exact_or_refused_by_name(
    row: Row, targets: str | tuple[str, ...], refusal: str
) -> None:
    if refusal:
        with pytest.raises(ConfigError, match=refusal):
            checked_model(row, targets)
        return
    model, selective = checked_model(row, targets)
    examples = random_examples(6)
    if targets == "all-linear" or row.all_linear:
        assert selective == row.selective
    expected = one_by_one(model, examples)
    hooks = RecordGradients(model)
    loss = summed_loss(
        model, physical_batch(examples, np.arange(6)), selective=selective
    )
    rows = torch.cat(hooks.rows(loss, 6), dim=1).double()
    hooks.close()
    gaps = (rows - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(gaps.max()) < ROUNDING


def replayed(model: PeftModel, examples: list[Example], selective: bool) -> float:
    """Distance of the sums with and without the first record, in units of the clip."""
    neighbour = [Example(examples[0].tokens[:1], 1), *examples[1:]]
    sums = []
    for data in (examples, neighbour):
        gradient = Sums(model, data, clip=CLIP, selective=selective, budget=400)
        sums.append(gradient.sum(np.arange(len(data))))
        gradient.close()
        assert gradient.zeroed == 0
    return float(np.linalg.norm(sums[0] - sums[1])) / CLIP


@pytest.mark.parametrize("row", TUNED, ids=lambda row: row.name)
def test_an_extreme_neighbour_moves_the_sum_by_no_more_than_the_clip(row: Row) -> None:
    # Much longer than the others, so that all of them are padded otherwise without it.
    examples = [Example(np.full(60, 299), 1), *random_examples(8)]
    distance = replayed(best_model(row), examples, row.selective)
    assert 1 - 1e-3 <= distance <= 1 + 1e-4


def test_routed_experts_would_move_it_by_more() -> None:
    """Why they are refused: where two experts score alike, rounding decides."""
    row = next(row for row in ROWS if row.name == "Mixtral")
    model = build(row)
    for layer in model.model.layers:
        scores = layer.mlp.gate.weight.data
        scores[:] = scores[0] * (1 + 1e-7 * torch.arange(len(scores))[:, None])
    lora = LoraConfig(rank=3, alpha=6, targets=row.targets)
    tuned = attach_adapter(model, lora)
    random = np.random.default_rng(3)
    write_adapter(tuned, random.normal(0, 0.2, read_adapter(tuned).shape).astype("f4"))
    examples = [Example(np.full(100, 299), 1), *random_examples(40)]
    assert replayed(tuned, examples, selective=True) > 1 + 1e-3
    with pytest.raises(ConfigError, match=REFUSED_EXPERTS):
        refuse_coupled_records(model)
    # Nor do they pass under another name.
    with pytest.raises(ConfigError, match=r"picks by rank.*\(topk in module '.*gate"):
        check_model(tuned, read_adapter(tuned), 64)


def test_padding_without_an_embedding_spoils_no_record() -> None:
    """Gemma 3n divides by the size of what comes in: zeros have no derivative there."""
    row = next(row for row in ROWS if row.kind == "gemma3n_text")
    model = best_model(row)
    assert not model.get_input_embeddings().weight[0].any()  # its padding token
    examples = [Example(np.arange(3, 43), 5), Example(np.arange(3, 10), 5)]
    sums = Sums(model, examples, clip=CLIP, selective=True, budget=400)
    sums.sum(np.arange(2))
    assert sums.zeroed == 0


def table() -> str:
    """The rows as docs/architectures.md shows them."""
    lines = [
        "| architecture | `model_type` | all-linear | usual targets | selective | |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        named = ", ".join(f"`{target}`" for target in row.targets)
        cells = (
            row.name,
            f"`{row.kind}`",
            "refused: " + row.all_linear if row.all_linear else "yes",
            "refused" if row.named else named,
            "" if row.named else ("yes" if row.selective else "no"),
            row.note,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def test_the_page_shows_these_rows() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


def test_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
