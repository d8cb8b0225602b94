"""One silo's part of a federated round: a fixed number of steps -> one adapter update."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedit_secure.federation.aggregation import BOTH, Factor, is_of
from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.privacy.plan import DpPlan, StepArguments
from fedit_secure.privacy.sensitivity import sensitivity
from fedit_secure.tuning.adapter import (
    FloatVector,
    adapter_parameters,
    read_adapter,
    tune_only,
    write_adapter,
)
from fedit_secure.tuning.base_model import needs_fixed_shapes
from fedit_secure.tuning.batches import Packing, Slots, poisson_units
from fedit_secure.tuning.device_noise import add_grid_noise_on_device
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import (
    DEFAULT_TOKEN_BUDGET,
    OnProgress,
    OptimizerConfig,
    Progress,
)
from fedit_secure.tuning.preflight import check_model, fitting_packing

SumOfUnits = Callable[[Slots, int], Tensor]
"""`BatchGradient.sum`, or what does the same."""


@dataclass(frozen=True, slots=True)
class ReadyRound:
    """A round whose model has passed every check; nothing has been sampled yet.

    `initial`: float32, of what the round tunes.
    """

    model: nn.Module
    steps: StepArguments
    initial: FloatVector
    selective: bool
    packing: Packing


def prepare_round(
    model: nn.Module,
    plan: DpPlan,
    *,
    initial: FloatVector,
    max_tokens: int,
    token_budget: int | None = None,
    unit_rows: int = 1,
    sharers: int = 1,
    tuned: Sequence[Factor] | None = None,
) -> ReadyRound:
    """Set the adapter, and try on synthetic records everything that can fail.

    Args:
        model: a PeftModel (`attach_adapter`), its adapter in float32, on its device.
        plan: the silo's plan; kind "none" tunes without clip and noise.
        initial: float32, shape (d,): the global adapter, ordered as the layout.
        max_tokens: length of the longest record that there could be.
        token_budget: tokens of a physical batch, padding included; None for what free
            memory allows.
        unit_rows: most records of one unit.
        sharers: processes of this host that tune at once.
        tuned: the LoRA factors that this round tunes; the other stays as `initial` says.
            None: what isn't frozen, which then is what `initial` is of.

    Raises:
        ConfigError: the plan or the model can't be tuned as asked; says why.
        TuningFailed: nothing would be trained, or one unit doesn't fit into memory.
    """
    steps = plan.step_arguments()
    model.eval()
    if tuned is not None:
        tune_only(model, BOTH)
        write_adapter(model, initial)
        tune_only(model, tuned)
        initial = read_adapter(model)
    fixed = needs_fixed_shapes(model)
    selective = check_model(model, initial, max_tokens, fixed=fixed)
    packing = fitting_packing(
        model,
        clip=steps.clip,
        selective=selective,
        max_tokens=max_tokens,
        token_budget=token_budget,
        unit_rows=unit_rows,
        fixed=fixed,
        sharers=sharers,
    )
    return ReadyRound(model, steps, initial, selective, packing)


def run_round(
    ready: ReadyRound,
    examples: Sequence[Example],
    optimizer: OptimizerConfig,
    *,
    noise_key: bytes,
    units: Sequence[Slots] | None = None,
    on_phase: OnProgress | None = None,
    threads: int = 1,
    deal: Callable[[BatchGradient], SumOfUnits] | None = None,
) -> FloatVector:
    """Exactly `local_steps` steps from the initial adapter; what they changed.

    Nothing but the drawn batches depends on the records: no early stop, no schedule on
    the loss, and an empty batch takes its step like any other. The optimiser starts
    fresh. Weight decay acts after the noise. The model keeps the tuned adapter.

    Args:
        examples: slot i is record i.
        noise_key: 32 secret bytes, for this attempt alone.
        units: the slots of every unit that has a coin, as `units.make_units` gives them;
            None where each record is one.
        threads: threads for the noise; doesn't change it.
        deal: who sums with the help of other processes (`dealing.Dealer`); None to sum
            alone.

    Returns:
        float32, of what the round tunes: the adapter after the steps minus the initial
        one.

    Raises:
        TuningFailed: a step failed; see `BatchGradient.sum`.
    """
    model, plan = ready.model, ready.steps
    noise = CryptoNoise(noise_key, threads)
    count = len(examples if units is None else units)
    parameters = [p for _, p in adapter_parameters(model)]
    anchors = [p.detach().clone() for p in parameters]
    descent = _optimizer(adapter_parameters(model), optimizer)
    gradients = BatchGradient(
        model,
        examples,
        clip=plan.clip,
        selective=ready.selective,
        packing=ready.packing,
        units=units,
        dropout_key=_dropout_key(noise_key),
    )
    try:
        sum_of = gradients.sum if deal is None else deal(gradients)
        for step in range(plan.steps):
            drawn = poisson_units(noise, step, count, plan.sample_rate)
            total = sum_of(drawn, step)
            if plan.clip is not None:
                bound = sensitivity(plan.clip, plan.expected_batch)
                total = add_noise(noise, total, step, plan.noise_multiplier, bound)
            # Divided by the plan's expected batch, a public constant, never by the
            # size of the drawn one. An empty batch takes a step of noise alone.
            _set_gradient(parameters, total / plan.expected_batch)
            _pull_back(parameters, anchors, optimizer.proximal)
            descent.step()
            if on_phase is not None:
                on_phase(Progress("tuning", step + 1, plan.steps))
    finally:
        gradients.close()
        model.eval()
        for parameter in parameters:
            parameter.grad = None
    return read_adapter(model) - ready.initial


def tune_round(
    model: nn.Module,
    examples: Sequence[Example],
    plan: DpPlan,
    optimizer: OptimizerConfig,
    *,
    noise_key: bytes,
    initial: FloatVector,
    max_tokens: int | None = None,
    units: Sequence[Slots] | None = None,
    on_phase: OnProgress | None = None,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    threads: int = 1,
) -> FloatVector:
    """`prepare_round`, then `run_round`: the update of one silo in one round.

    `max_tokens` is by default the longest of the examples.
    """
    longest = max((len(e.tokens) for e in examples), default=2)
    ready = prepare_round(
        model,
        plan,
        initial=initial,
        max_tokens=longest if max_tokens is None else max_tokens,
        token_budget=token_budget,
        unit_rows=plan.records_per_person or 1,
    )
    return run_round(
        ready,
        examples,
        optimizer,
        noise_key=noise_key,
        units=units,
        on_phase=on_phase,
        threads=threads,
    )


def _dropout_key(noise_key: bytes) -> bytes:
    # Masks may be drawn elsewhere, and the noise key is nobody else's: it can't be had
    # back from this.
    return hashlib.sha256(b"fedit/dropout-key/v1" + noise_key).digest()


def _optimizer(
    named: list[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Of A and B at their own rates, in the flat vector's order within each."""
    groups = [
        {"params": [p for key, p in named if is_of(key, (factor,))], "lr": rate}
        for factor, rate in (
            ("A", config.learning_rate),
            ("B", config.learning_rate * config.b_rate_ratio),
        )
    ]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )


def _pull_back(
    parameters: list[nn.Parameter], anchors: list[Tensor], proximal: float
) -> None:
    """FedProx: the gradient of proximal / 2 * |w - w0|^2, which knows no record."""
    if proximal:
        for parameter, anchor in zip(parameters, anchors, strict=True):
            assert parameter.grad is not None
            parameter.grad += proximal * (parameter.detach() - anchor)


def add_noise(
    noise: CryptoNoise, total: Tensor, step: int, sigma: float, bound: float
) -> Tensor:
    """`CryptoNoise.add_grid_noise` of a float64 tensor of shape (d,), on its device."""
    if total.device.type != "cpu":
        return add_grid_noise_on_device(noise, total, step, sigma, bound)
    return torch.from_numpy(noise.add_grid_noise(total.numpy(), step, sigma, bound))


def _set_gradient(parameters: list[nn.Parameter], gradient: Tensor) -> None:
    start, rounded = 0, gradient.float()
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.grad = rounded[start:stop].view(parameter.shape)
        start = stop
