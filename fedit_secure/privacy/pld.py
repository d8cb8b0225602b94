"""The PLD accountant: dp-accounting's, on a mesh that fits the event.

Privacy loss distributions after Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, *Connect
the Dots*, PoPETs 2022 (arXiv 2207.04380): pessimistic on any mesh. Only the mesh is ours.
On a fixed one, very weak steps are rounded up to many times their loss, and steps with
hardly any noise fill the memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedit_secure.privacy.mechanisms import (
    Mechanism,
    PrivacyAccountingError,
    event_of,
    gaussians_together,
)
from fedit_secure.privacy.renyi import rdp_epsilon

if TYPE_CHECKING:
    from dp_accounting import DpEvent, NeighboringRelation

INTERVAL = 1e-4
"""dp-accounting's own mesh, never exceeded but where losses are large."""

MAX_POINTS = 2**21
"""Most mesh points: ten seconds of one core, 400 MiB."""

MESH_ERROR = 3e-4
"""Epsilon that a mesh chosen here may add."""

MAX_STEPS = 2**20
"""Most steps of a sampled mechanism: dp-accounting first raises its mesh points to that
power, in integers of unbounded length.
"""

_TAIL = 1e-15  # the mass that dp-accounting cuts off a composition
_ROUNDING = 1e-15  # of a composition's masses, for each of its steps


def pld_epsilon(
    mechanisms: tuple[Mechanism, ...],
    delta: float,
    *,
    relation: NeighboringRelation | None = None,
) -> float:
    """dp-accounting's PLD epsilon of the composition, by default for REPLACE_SPECIAL.

    Raises PrivacyAccountingError where no mesh of MAX_POINTS is fine enough, or float64
    for the delta.
    """
    together = gaussians_together(mechanisms)
    if delta < _ROUNDING * sum(m.steps for m in together):
        raise PrivacyAccountingError(
            f"delta {delta:g} is too small for the PLD accountant's float64 arithmetic"
        )
    return event_epsilon(
        event_of(together), delta, relation=relation, interval=interval_for(together)
    )


def event_epsilon(
    event: DpEvent,
    delta: float,
    *,
    relation: NeighboringRelation | None = None,
    interval: float = INTERVAL,
) -> float:
    """The same for any event that dp-accounting knows, on a mesh of this interval."""
    import dp_accounting as dpa
    from dp_accounting.pld import PLDAccountant

    neighbours = relation or dpa.NeighboringRelation.REPLACE_SPECIAL
    accountant = PLDAccountant(neighbours, interval)
    try:
        return float(accountant.compose(event).get_epsilon(delta))
    except ValueError as error:  # its own checks of what float64 made of the masses
        raise PrivacyAccountingError(
            f"the PLD accountant fails at delta {delta:g}: {error}"
        ) from error


def interval_for(mechanisms: tuple[Mechanism, ...]) -> float:
    """The mesh that adds MESH_ERROR to epsilon at most, but for the largest epsilons.

    Connecting the dots adds a sixth of its square to the variance of each step's loss,
    or for losses far below it their product, and epsilon grows no faster than the
    variance. Raises PrivacyAccountingError where that takes more than MAX_POINTS.
    """
    steps = sum(m.steps for m in mechanisms)
    variance = math.fsum(m.steps * _square_loss(m) for m in mechanisms)
    far = rdp_epsilon(mechanisms, _TAIL)
    loss = math.sqrt(variance / steps)
    needed = max(
        loss * math.sqrt(min(1.0, 12 * MESH_ERROR / far)),
        MESH_ERROR**2 / (-2 * math.log(_TAIL) * steps * loss),
    )
    # Its bound on where a composition ends tries exponents of 1 to 20 over one step's
    # range: at worst twice that range, or what the least exponent gives.
    one = max(_range(m) for m in mechanisms)
    reach = 4 * one + 2 * max(far, variance / (2 * one))
    interval = max(min(INTERVAL, needed), reach / MAX_POINTS)
    if interval > needed or max(m.steps for m in mechanisms) > MAX_STEPS:
        raise PrivacyAccountingError(
            f"the PLD accountant can't reach {steps} steps with losses as small as "
            f"{loss:.3g}: use fewer steps"
        )
    return interval


def _square_loss(mechanism: Mechanism) -> float:
    """The second moment of one step's loss, about: of weak steps, or of strong ones."""
    q, sigma, _ = mechanism
    strong = q * (1 / sigma**2 + 1 / (4 * sigma**4))
    return min(q**2 * math.expm1(min(sigma**-2, 50.0)), strong)


def _range(mechanism: Mechanism) -> float:
    """From one step's least loss to its largest: dp-accounting goes as far as 10 sigma."""
    q, sigma, _ = mechanism
    far = (20 * sigma + 1) / (2 * sigma**2)
    rest = math.log1p(-q) if q < 1 else -math.inf
    most, least = (np.logaddexp(rest, math.log(q) + x) for x in (far, -far))
    return float(most - least)
