"""What an event is made of, for accountants: Gaussian steps on Poisson samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedit_secure.errors import FeditError

if TYPE_CHECKING:
    from dp_accounting import DpEvent


NO_NOISE = 1e-9
"""Noise multipliers below it have no epsilon: it would be above 10^17."""

LEAST_RATE, MOST_NOISE = 1e-9, 1e6
"""What a smaller rate or a larger noise multiplier counts as: more than it costs."""


class PrivacyAccountingError(FeditError):
    """No epsilon can be stated: an accountant doesn't reach that far, or two disagree."""


class Mechanism(NamedTuple):
    """`steps` Gaussian releases, each of a Poisson sample of the records."""

    sample_rate: float
    noise_multiplier: float
    steps: int


def _leaves(event: DpEvent, count: int) -> Iterator[Mechanism | None]:
    """The Gaussian leaves, repeated ones counted; None for one without any privacy."""
    import dp_accounting as dpa

    match event:
        case dpa.NoOpDpEvent():
            return
        case dpa.NonPrivateDpEvent():
            yield None
        case dpa.SelfComposedDpEvent():
            yield from _leaves(event.event, count * event.count)
        case dpa.ComposedDpEvent():
            for part in event.events:
                yield from _leaves(part, count)
        case dpa.GaussianDpEvent():
            yield Mechanism(1.0, float(event.noise_multiplier), count)
        case dpa.PoissonSampledDpEvent(event=dpa.GaussianDpEvent()):
            sigma = float(event.event.noise_multiplier)
            yield Mechanism(float(event.sampling_probability), sigma, count)
        case _:
            raise PrivacyAccountingError(
                f"a {type(event).__name__} can't be accounted: only Gaussian steps, "
                "Poisson-sampled or not, and their compositions"
            )


def mechanisms_of(event: DpEvent) -> tuple[Mechanism, ...] | None:
    """The event's Gaussian steps, equal ones counted together; None without privacy.

    Composition doesn't depend on order, so events with one result are the same to every
    accountant. Raises PrivacyAccountingError for events of any other kind.
    """
    leaves = tuple(_leaves(event, 1))
    if any(leaf is None or leaf.noise_multiplier == 0 for leaf in leaves):
        return None
    return merged([leaf for leaf in leaves if leaf is not None])


def merged(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """The mechanisms sorted, those of equal rate and noise counted together.

    Extreme ones are brought to LEAST_RATE and MOST_NOISE, beyond which float64 fails.
    """
    steps: dict[tuple[float, float], int] = {}
    for q, sigma, count in mechanisms:
        if q > 0 and count > 0:
            key = max(q, LEAST_RATE), min(sigma, MOST_NOISE)
            steps[key] = steps.get(key, 0) + count
    return tuple(Mechanism(*key, count) for key, count in sorted(steps.items()))


def gaussians_together(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """The mechanisms, all without sampling as one release: exactly equivalent.

    The mean of several Gaussian releases, weighted by 1/sigma^2, tells all that they do.
    """
    sampled = tuple(m for m in mechanisms if m.sample_rate < 1)
    precision = math.fsum(
        steps / max(sigma, NO_NOISE) ** 2 for q, sigma, steps in mechanisms if q == 1
    )
    if precision == 0:
        return sampled
    return (*sampled, Mechanism(1.0, 1 / math.sqrt(precision), 1))


def steps_event(sample_rate: float, noise_multiplier: float, steps: int) -> DpEvent:
    """The event of `steps` DP-SGD steps; one without any privacy where there is no noise."""
    import dp_accounting as dpa

    if noise_multiplier == 0:
        return dpa.NonPrivateDpEvent()
    step: DpEvent = dpa.GaussianDpEvent(noise_multiplier)
    if sample_rate < 1:
        step = dpa.PoissonSampledDpEvent(sample_rate, step)
    return dpa.SelfComposedDpEvent(step, steps)


def charges_event(
    sample_rate: float,
    noise_multiplier: float,
    steps: int,
    times: int,
    evaluation: float | None = None,
) -> DpEvent:
    """The event of `times` charges: each of `steps` steps and, where there is an
    `evaluation` (its noise multiplier), of one more Gaussian release without sampling.

    They are composed as if every unit was in both: docs/privacy.md says why.
    """
    tuned = steps_event(sample_rate, noise_multiplier, steps * times)
    if evaluation is None:
        return tuned
    import dp_accounting as dpa

    return dpa.ComposedDpEvent([tuned, steps_event(1.0, evaluation, times)])


def event_of(mechanisms: Sequence[Mechanism]) -> DpEvent:
    """The composition of the mechanisms as dp-accounting takes it."""
    import dp_accounting as dpa

    return dpa.ComposedDpEvent([steps_event(*mechanism) for mechanism in mechanisms])


def require_delta(delta: float) -> None:
    """Raises ValueError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}, not between 0 and 1")
