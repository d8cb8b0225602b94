"""The sum before noise: right, equal to Opacus's, and whole whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus import PrivacyEngine
from opacus.optimizers import DPOptimizer
from peft import PeftModel
from tiny_models import SHAPES, Sums, random_examples, tuned_model
from torch.utils.data import DataLoader, TensorDataset

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.privacy.sensitivity import sensitivity
from fedit_secure.tuning import dp_step, fused_lora
from fedit_secure.tuning.adapter import adapter_parameters
from fedit_secure.tuning.batches import ROW_TOKENS, Packing, physical_batch
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.record_gradients import RecordGradients, clip_units
from fedit_secure.tuning.record_loss import summed_loss

CLIP = 0.3
EVERYONE = np.arange(9)


def gradient(
    model: PeftModel,
    examples: list[Example],
    *,
    clip: float | None = CLIP,
    selective: bool = True,
    budget: int = 60,
) -> Sums:
    return Sums(model, examples, clip=clip, selective=selective, budget=budget)


def one_by_one(model: PeftModel, examples: list[Example]) -> np.ndarray:
    """Every record's own gradient by plain autograd, float64, (records, d)."""
    parameters = [p for _, p in adapter_parameters(model)]
    rows = []
    for slot in range(len(examples)):
        alone = physical_batch(examples, np.array([slot]))
        loss = summed_loss(model, alone, selective=False)
        flat = [g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]
        rows.append(torch.cat(flat).double().numpy())
    return np.stack(rows)


def clipped(rows: np.ndarray, clip: float) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)
    return rows * np.minimum(1, clip / norms)[:, None]


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Equal up to float32 rounding; half a record more or less would be 0.1."""
    gap = float(np.linalg.norm(actual - expected))
    return gap < 2e-5 * float(np.linalg.norm(expected))


def leftovers(model: PeftModel) -> list[str]:
    """What hooks have left on the model."""
    kept = ("activations", "max_batch_len", "autograd_grad_sample_hooks")
    found = [
        f"{name}.{attribute}"
        for name, module in model.named_modules()
        for attribute in kept
        if attribute in module.__dict__
    ]
    kept = ("grad_sample", "_forward_counter", "_current_grad_sample")
    found += [
        f"{name}.{attribute}"
        for name, parameter in model.named_parameters()
        for attribute in kept
        if hasattr(parameter, attribute)
    ]
    hooks = ("_forward_hooks", "_backward_hooks")
    found += [
        name
        for name, module in model.named_modules()
        if any(getattr(module, hook) for hook in hooks) or "forward" in vars(module)
    ]
    return found


def watch_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The slots of every physical batch from now on."""
    seen: list[list[int]] = []

    def watched(examples: object, slots: np.ndarray, packing: object) -> object:
        seen.append(slots.tolist())
        return physical_batch(examples, slots, packing)  # type: ignore[arg-type]

    monkeypatch.setattr(dp_step, "physical_batch", watched)
    return seen


@pytest.mark.parametrize("family", SHAPES)
def test_a_record_has_the_gradient_that_it_has_alone(family: str) -> None:
    model, examples = tuned_model(family), random_examples(9)
    expected = one_by_one(model, examples)
    hooks = RecordGradients(model)
    loss = summed_loss(model, physical_batch(examples, EVERYONE), selective=True)
    rows = torch.cat(hooks.rows(loss, 9), dim=1).double().numpy()
    hooks.close()
    gaps = np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)
    # What padding and grouping move. These models' weights are large; the real base
    # model's records move by 5e-7, see `sensitivity`.
    assert gaps.max() < 5e-5
    assert leftovers(model) == []


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_the_sum_is_that_of_clipped_records(family: str, budget: int) -> None:
    model, examples = tuned_model(family), random_examples(9)
    rows = one_by_one(model, examples)
    clip = float(np.median(np.linalg.norm(rows, axis=1)))
    sums = gradient(model, examples, clip=clip, budget=budget)
    slots = np.array([0, 2, 3, 5, 8])
    total = sums.sum(slots)
    assert total.dtype == np.float64
    expected = clipped(rows, clip)[slots].sum(axis=0)
    assert same(total, expected)


def test_the_full_path_gives_the_same_sum() -> None:
    model, examples = tuned_model("gemma2"), random_examples(9)
    selected = gradient(model, examples)
    expected = selected.sum(EVERYONE)
    selected.close()
    assert same(gradient(model, examples, selective=False).sum(EVERYONE), expected)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
def test_the_sum_equals_that_of_opacus_privacy_engine() -> None:
    examples = random_examples(9)
    ours = gradient(tuned_model(), examples, budget=10_000).sum(EVERYONE)

    model = tuned_model().train()
    batch = physical_batch(examples, EVERYONE)
    loader = DataLoader(TensorDataset(torch.from_numpy(batch.tokens)), batch_size=9)
    parameters = [p for _, p in adapter_parameters(model)]
    hooks, optimizer, _ = PrivacyEngine().make_private(
        module=model,
        optimizer=torch.optim.SGD(parameters, lr=1.0),
        data_loader=loader,
        noise_multiplier=1.0,
        max_grad_norm=CLIP,
        poisson_sampling=False,
        loss_reduction="sum",
        grad_sample_mode="hooks",
        wrap_model=False,
    )
    assert isinstance(optimizer, DPOptimizer)
    summed_loss(model, batch, selective=False).backward()
    optimizer.clip_and_accumulate()
    theirs = torch.cat([p.summed_grad.reshape(-1) for p in parameters]).numpy()
    hooks.cleanup()
    # Theirs multiplies by A and B apart, ours by W + s B A: float32 rounds otherwise.
    assert np.linalg.norm(ours - theirs) < 2e-5 * np.linalg.norm(theirs)
    assert np.linalg.norm(ours) > CLIP  # several clipped records, not none


def test_without_privacy_the_same_batches_are_summed_unclipped() -> None:
    model, examples = tuned_model(), random_examples(9)
    expected = one_by_one(model, examples)[[1, 4, 7]].sum(axis=0)
    sums = gradient(model, examples, clip=None)
    total = sums.sum(np.array([1, 4, 7]))
    sums.close()
    assert same(total, expected)
    assert leftovers(model) == []


def test_an_empty_batch_sums_to_zero() -> None:
    for clip in (CLIP, None):
        sums = gradient(tuned_model(), random_examples(3), clip=clip)
        total = sums.sum(np.array([], np.int64))
        assert total.any() == np.False_
        assert total.dtype == np.float64


def test_no_examples_at_all_sum_to_zero() -> None:
    assert not gradient(tuned_model(), []).sum(np.array([], np.int64)).any()


def test_a_record_without_labels_keeps_its_slot_and_gives_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, examples = tuned_model(), random_examples(9)
    without = list(examples)
    without[4] = Example(examples[4].tokens, len(examples[4].tokens))
    seen = watch_batches(monkeypatch)
    total = gradient(model, without).sum(EVERYONE)
    assert sorted(slot for batch in seen for slot in batch) == [0, 1, 2, 3, 5, 6, 7, 8]
    expected = gradient(tuned_model(), examples).sum(np.delete(EVERYONE, 4))
    assert same(total, expected)
    assert not gradient(tuned_model(), without).sum(np.array([4])).any()


@pytest.mark.parametrize("clip", [CLIP, None])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_record_that_is_not_finite_gives_zero(
    clip: float | None, value: float
) -> None:
    model, examples = tuned_model(), random_examples(9)
    poisoned = Example(np.array([VICTIM, 5, 6, VICTIM, 7]), 1)
    examples = [
        Example(np.where(e.tokens == VICTIM, 4, e.tokens), e.first_label)
        for e in examples
    ]
    clean = list(examples)
    examples[3] = poisoned
    with torch.no_grad():
        model.get_input_embeddings().weight[VICTIM] = value
    if value == 1e30:  # finite, but its square isn't
        model.get_output_embeddings().weight.data[:] *= 1e20
        clean = examples
    sums = gradient(model, examples, clip=clip, budget=10_000)
    total = sums.sum(EVERYONE)
    assert np.isfinite(total).all()
    if value != 1e30:
        others = gradient(tuned_model(), clean, clip=clip).sum(np.delete(EVERYONE, 3))
        assert same(total, others)
        assert sums.zeroed == 1


VICTIM = 299


def test_clipping_bounds_the_norm_in_float32() -> None:
    random = torch.Generator().manual_seed(0)
    scale = torch.logspace(-12, 16, 400)[:, None]
    rows = [torch.randn(400, n, generator=random) * scale for n in (30, 500, 7)]
    before = torch.cat(rows, dim=1).double().norm(dim=1)
    total, zeroed = clip_units(rows, None, 400, 0.25)
    after = torch.cat(rows, dim=1).double()
    norms = after.norm(dim=1)
    assert zeroed == 0
    assert torch.allclose(total, after.sum(dim=0), rtol=1e-12)
    assert float(norms.max()) <= 0.25 * (1 + 1e-6)
    assert torch.allclose(norms, before.clamp(max=0.25), rtol=1e-4, atol=0)


def test_a_norm_that_overflows_counts_as_not_finite() -> None:
    rows = [torch.full((2, 3), 1e25), torch.tensor([[1.0], [torch.nan]])]
    total, zeroed = clip_units(rows, None, 2, 1.0)
    assert zeroed == 2
    assert not total.any()


def test_rows_beyond_the_records_are_dropped() -> None:
    for owners in (None, torch.tensor([0, 1])):
        rows = [torch.tensor([[0.1], [0.2], [7.0], [torch.nan]])]
        total, zeroed = clip_units(rows, owners, 2, 1.0)
        assert zeroed == 0
        assert total.tolist() == pytest.approx([0.3])


def test_the_noise_pays_for_rounding() -> None:
    assert sensitivity(0.5, 10) == pytest.approx(0.5 * 1.0001)
    assert sensitivity(0.5, 10_000) == pytest.approx(0.5 * 1.01)


# --- failures in a pass: the sum is what it would have been, or there is none


def modules(model: PeftModel) -> list[str]:
    """Every module that takes part in a pass."""
    called: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
    ]
    batch = physical_batch(random_examples(2), np.arange(2))
    summed_loss(model, batch, selective=True)
    for handle in handles:
        handle.remove()
    return sorted(set(called))


def fail_at(
    model: PeftModel, name: str, where: str, error: Exception, calls: int = 1
) -> Callable[[], int]:
    """Raise at this module's nth call, once; tells how often that was reached."""
    reached = 0

    def hook(*_: object) -> None:
        nonlocal reached
        reached += 1
        if reached == calls:
            raise error

    getattr(model.get_submodule(name), f"register_{where}")(hook)
    return lambda: reached


# torch says of some modules that a backward hook isn't what it is elsewhere.
OF_HOOKS = pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing:UserWarning",
    "ignore:For backward hooks to be called:UserWarning",
)
PLACES = (
    "forward_pre_hook",
    "forward_hook",
    pytest.param("full_backward_hook", marks=OF_HOOKS),
)
ALL_MODULES = modules(tuned_model())
A_LORA = next(n for n in ALL_MODULES if n.endswith("k_proj.lora_B.default"))


@pytest.mark.parametrize("where", PLACES)
def test_memory_that_runs_out_anywhere_changes_no_sum(where: str) -> None:
    examples = random_examples(6)
    expected = gradient(tuned_model(), examples).sum(np.arange(6))
    assert len(ALL_MODULES) > 40
    failures = 0
    for name in ALL_MODULES:
        model = tuned_model()
        # The second physical batch fails: the first one's rows are summed already.
        reached = fail_at(model, name, where, torch.OutOfMemoryError(), calls=2)
        sums = gradient(model, examples)
        total = sums.sum(np.arange(6))
        assert same(total, expected), name
        if reached() >= 2:
            failures += 1
            assert sums.packing.token_budget < 60
    # Backward hooks don't fire where no gradient passes, as at the embedding.
    assert failures >= (30 if where == "full_backward_hook" else len(ALL_MODULES))


@pytest.mark.parametrize("clip", [CLIP, None])
@pytest.mark.parametrize("within", ["weight", "_by_record", "_over_records"])
def test_memory_that_runs_out_within_a_fused_layer_changes_no_sum(
    within: str, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = random_examples(6)
    expected = gradient(tuned_model(), examples, clip=clip).sum(np.arange(6))
    place = fused_lora._Layer if within == "weight" else fused_lora
    plain, countdown, failures = getattr(place, within), 0, 0

    def failing(*inputs: object) -> object:
        nonlocal countdown, failures
        countdown -= 1
        if countdown == 0:
            failures += 1
            raise torch.OutOfMemoryError
        return plain(*inputs)

    monkeypatch.setattr(place, within, failing)
    for call in range(1, 23):
        countdown, before = call, failures
        sums = gradient(tuned_model(), examples, clip=clip)
        assert same(sums.sum(np.arange(6)), expected)
        assert (sums.packing.token_budget < 60) == (failures > before)
    other = "_over_records" if clip else "_by_record"
    assert failures == (0 if within == other else 22)


@pytest.mark.parametrize("where", PLACES)
def test_memory_that_runs_out_without_privacy_changes_no_sum(where: str) -> None:
    examples = random_examples(6)
    expected = gradient(tuned_model(), examples, clip=None).sum(np.arange(6))
    for name in ALL_MODULES[::7]:
        model = tuned_model()
        fail_at(model, name, where, torch.OutOfMemoryError(), calls=2)
        total = gradient(model, examples, clip=None).sum(np.arange(6))
        assert same(total, expected), name


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: not "
                     "enough memory"),
    ],
)  # fmt: skip
def test_every_kind_of_memory_failure_is_known(error: Exception) -> None:
    model, examples = tuned_model(), random_examples(6)
    expected = gradient(tuned_model(), examples).sum(np.arange(6))
    fail_at(model, A_LORA, "forward_hook", error)
    assert same(gradient(model, examples).sum(np.arange(6)), expected)


def test_the_budget_halves_until_it_fits() -> None:
    examples = [Example(np.arange(3, 23), 5) for _ in range(16)]
    expected = gradient(tuned_model(), examples, budget=40).sum(np.arange(16))
    model = tuned_model()

    def too_large(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > 3:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(too_large)
    sums = gradient(model, examples, budget=320)
    assert same(sums.sum(np.arange(16)), expected)
    assert sums.packing.token_budget == 40
    assert same(sums.sum(np.arange(16)), expected)


def test_short_records_halve_the_budget_by_what_they_count_as() -> None:
    examples = [Example(np.arange(3, 7), 2) for _ in range(16)]
    expected = gradient(tuned_model(), examples).sum(np.arange(16))
    model = tuned_model()

    def too_many(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > 8:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(too_many)
    sums = gradient(model, examples, budget=16 * ROW_TOKENS)
    assert same(sums.sum(np.arange(16)), expected)
    assert sums.packing.token_budget == 8 * ROW_TOKENS


def test_a_record_that_does_not_fit_alone_voids_the_attempt() -> None:
    model, examples = tuned_model(), random_examples(6)

    def never(*_: object) -> None:
        raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(never)
    with pytest.raises(TuningFailed, match="a single record doesn't fit into memory"):
        gradient(model, examples).sum(np.arange(6))


def test_another_error_ends_the_attempt_and_leaves_no_stale_rows() -> None:
    model, examples = tuned_model(), random_examples(6)
    expected = gradient(tuned_model(), examples).sum(np.arange(6))
    fail_at(model, A_LORA, "full_backward_hook", KeyError("secret value"))
    sums = gradient(model, examples)
    with pytest.raises(TuningFailed, match=r"^a tuning step failed \(KeyError\)$"):
        sums.sum(np.arange(6))
    assert same(sums.sum(np.arange(6)), expected)


def test_stale_hook_state_would_mix_records() -> None:
    """Why a failed pass is forgotten: else its rows are added to the next batch's."""
    model, examples = tuned_model(), random_examples(6)
    expected = gradient(tuned_model(), examples).sum(np.arange(6))
    fail_at(model, A_LORA, "full_backward_hook", torch.OutOfMemoryError())
    sums = gradient(model, examples)
    sums._discard = lambda: None  # type: ignore[method-assign]
    try:
        total = sums.sum(np.arange(6))
    # Rows of two batches have two lengths, unless by chance.
    except (TuningFailed, ConfigError):
        return
    assert not same(total, expected)


def test_a_lost_record_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(_lengths: object, slots: np.ndarray, *_: object) -> list[np.ndarray]:
        return [slots[:-1]]

    monkeypatch.setattr(dp_step, "split_by_length", forgetful)
    with pytest.raises(TuningFailed, match="aren't the ones that were drawn"):
        gradient(tuned_model(), random_examples(6)).sum(np.arange(6))


def test_a_module_that_sees_no_record_rows_is_refused() -> None:
    model = tuned_model()
    attention = model.base_model.model.model.layers[0].self_attn
    inner = attention.q_proj.forward

    def flattened(x: torch.Tensor) -> torch.Tensor:
        return inner(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    attention.q_proj.forward = flattened
    with pytest.raises(ConfigError, match=r"q_proj\.lora_A\.weight one row per record"):
        gradient(model, random_examples(6)).sum(np.arange(6))


def test_the_model_is_left_without_a_trace() -> None:
    model = tuned_model()
    sums = gradient(model, random_examples(6))
    sums.sum(np.arange(6))
    sums.close()
    assert leftovers(model) == []
    assert not any(module.training for module in model.modules())


# --- persons: their records are summed, then clipped once


UNITS = [np.array(u, np.int64) for u in ([0, 4], [1], [2, 3, 5], [6], [7, 8])]


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_a_persons_records_are_summed_and_clipped_once(budget: int) -> None:
    model, examples = tuned_model(), random_examples(9)
    rows = one_by_one(model, examples)
    persons = np.stack([rows[unit].sum(axis=0) for unit in UNITS])
    clip = float(np.median(np.linalg.norm(persons, axis=1)))
    packing = Packing(budget, unit_rows=3)
    sums = Sums(model, examples, clip=clip, units=UNITS, packing=packing)
    drawn = np.array([0, 2, 4])
    assert same(sums.sum(drawn), clipped(persons, clip)[drawn].sum(axis=0))


def test_a_persons_records_share_a_physical_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = watch_batches(monkeypatch)
    packing = Packing(70, unit_rows=3)
    sums = Sums(
        tuned_model(), random_examples(9), clip=CLIP, units=UNITS, packing=packing
    )
    sums.sum(np.arange(5))
    assert len(seen) > 1
    for unit in UNITS:
        assert sum(set(unit.tolist()) <= set(batch) for batch in seen) == 1


def test_a_persons_record_without_labels_takes_nothing_from_the_others() -> None:
    model, examples = tuned_model(), random_examples(3)
    expected = one_by_one(model, examples)[0]
    examples[1] = Example(examples[1].tokens, len(examples[1].tokens))
    examples[2] = Example(examples[2].tokens, len(examples[2].tokens))
    units = [np.array([0, 1]), np.array([2])]
    sums = Sums(model, examples, clip=1e6, units=units, packing=Packing(60, 2))
    assert same(sums.sum(np.array([0, 1])), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_person_with_a_record_that_is_not_finite_gives_zero(value: float) -> None:
    """The whole person does: a NaN isn't taken back out of a sum that has it."""
    model, examples = tuned_model(), random_examples(9)
    clean = [
        Example(np.where(e.tokens == VICTIM, 4, e.tokens), e.first_label)
        for e in examples
    ]
    poisoned = list(clean)
    poisoned[3] = Example(np.array([VICTIM, 5, 6, VICTIM, 7]), 1)
    with torch.no_grad():
        model.get_input_embeddings().weight[VICTIM] = value
    packing = Packing(10_000, unit_rows=3)
    sums, others = (
        Sums(of, data, clip=CLIP, units=UNITS, packing=packing)
        for of, data in ((model, poisoned), (tuned_model(), clean))
    )
    total = sums.sum(np.arange(5))
    assert sums.zeroed == 1
    assert same(total, others.sum(np.array([0, 1, 3, 4])))


def test_records_whose_sum_overflows_count_as_not_finite() -> None:
    rows = [torch.tensor([[3e38], [3e38], [0.5]])]
    total, zeroed = clip_units(rows, torch.tensor([0, 0, 1]), 2, 1.0)
    assert zeroed == 1
    assert total.tolist() == pytest.approx([0.5])


def test_a_person_that_does_not_fit_voids_the_attempt() -> None:
    model = tuned_model()

    def at_most_two(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > 2:
            raise torch.OutOfMemoryError

    model.get_input_embeddings().register_forward_pre_hook(at_most_two)
    packing = Packing(1000, unit_rows=3)
    sums = Sums(model, random_examples(9), clip=CLIP, units=UNITS, packing=packing)
    with pytest.raises(TuningFailed, match="a single unit doesn't fit into memory"):
        sums.sum(np.arange(5))
