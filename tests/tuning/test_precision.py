"""A base model in bfloat16 or on another device: the adapter stays float32 and exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fixed_shapes import fixed_batch, gap, record_rows, rows_alone, tuned_from
from tiny_models import base_model, random_examples, tuned_model
from torch.nn import functional

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.base_model import (
    chosen_device,
    load_base_model,
    needs_fixed_shapes,
)
from fedit_secure.tuning.record_gradients import RecordGradients, clip_units
from fedit_secure.tuning.record_loss import label_logits, summed_loss

EXAMPLES = random_examples(6, 20)
ALL = list(range(6))


def test_the_base_is_bfloat16_and_the_adapter_float32(model_folder: Path) -> None:
    model = tuned_from(model_folder, precision="bfloat16")
    adapter = {id(p) for _, p in adapter_parameters(model)}
    frozen = [p for p in model.parameters() if id(p) not in adapter]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert not any(p.requires_grad for p in frozen)
    assert {p.dtype for _, p in adapter_parameters(model)} == {torch.float32}


def test_at_one_shape_other_records_change_nothing(model_folder: Path) -> None:
    model = tuned_from(model_folder, precision="bfloat16")
    rows = record_rows(model, fixed_batch(EXAMPLES, ALL, 24))
    assert rows.dtype == torch.float32
    assert torch.equal(rows, rows_alone(model, EXAMPLES, 6, 24))


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_another_shape_moves_gradients_by_rounding(
    model_folder: Path, precision: str, most: float
) -> None:
    # How far depends on the processor's kernels: in bfloat16 1.2e-2 where they're of
    # AVX-512, 6e-4 of AVX2, 2e-7 of neither. The noise allows for 1e-6 of each record.
    # Hence `needs_fixed_shapes`.
    model = tuned_from(model_folder, precision=precision)
    together = record_rows(model, fixed_batch(EXAMPLES, ALL, 24))
    unpadded = [fixed_batch(EXAMPLES, [n], len(EXAMPLES[n].tokens)) for n in ALL]
    alone = torch.cat([record_rows(model, batch) for batch in unpadded])
    assert gap(alone, together) <= most


def test_a_clipped_norm_stays_below_the_clip(model_folder: Path) -> None:
    model = tuned_from(model_folder, precision="bfloat16")
    batch = fixed_batch(EXAMPLES, ALL, 24)
    hooks = RecordGradients(model)
    rows = hooks.rows(summed_loss(model, batch, selective=True), 6)
    hooks.close()
    assert {row.dtype for row in rows} == {torch.float32}
    before = torch.cat(rows, dim=1).double().norm(dim=1)
    for clip in (0.1, 0.01):
        clipped = [row.clone() for row in rows]
        clip_units(clipped, None, len(before), clip)
        norms = torch.cat(clipped, dim=1).double().norm(dim=1)
        assert bool((before > clip).all())
        assert float(norms.max()) <= clip * (1 + 1e-6)


def test_the_loss_of_16_bit_logits_is_float32(model_folder: Path) -> None:
    model = tuned_from(model_folder, precision="bfloat16")
    batch = fixed_batch(EXAMPLES, [2], 24)
    logits = label_logits(model, batch, selective=True)
    assert logits.dtype == torch.bfloat16
    loss = summed_loss(model, batch, selective=True)
    assert loss.dtype == torch.float32
    labels = torch.from_numpy(EXAMPLES[2].tokens[EXAMPLES[2].first_label :])
    assert loss.item() == pytest.approx(
        functional.cross_entropy(logits.float(), labels).item(), rel=1e-6
    )


@pytest.fixture
def _restored_products() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


def test_float32_throughout_needs_no_fixed_shapes() -> None:
    assert not needs_fixed_shapes(base_model())
    assert not needs_fixed_shapes(tuned_model())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_anything_of_16_bits_needs_fixed_shapes(kind: torch.dtype) -> None:
    model = tuned_model()
    norm = model.base_model.model.model.norm
    norm.to(kind)
    assert needs_fixed_shapes(model)
    norm.to(torch.float32)
    assert not needs_fixed_shapes(model)
    norm.register_buffer("scale", torch.ones(3, dtype=kind))
    assert needs_fixed_shapes(model)


@pytest.mark.usefixtures("_restored_products")
def test_products_of_fewer_bits_need_fixed_shapes() -> None:
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA
    assert needs_fixed_shapes(base_model())


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^device: cuda, but torch finds no CUDA"):
        chosen_device("cuda")
    assert chosen_device("auto") == chosen_device("cpu") == torch.device("cpu")


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert chosen_device("auto") == chosen_device("cuda") == torch.device("cuda", 1)
    assert chosen_device("cpu") == torch.device("cpu")


def test_weights_beyond_the_memory_are_told(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    def too_large(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", too_large)
    with pytest.raises(ConfigError, match="doesn't fit into the memory of cpu"):
        load_base_model(model_folder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_and_adapter_are_on_the_device(
    model_folder: Path, precision: str
) -> None:
    model = tuned_from(model_folder, device="cuda", precision=precision)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert {p.dtype for _, p in adapter_parameters(model)} == {torch.float32}
