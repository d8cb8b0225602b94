"""The server rules: how a mean update moves the global state, and what they remember.

FedAvg (McMahan et al. 2017), FedAvgM (Hsu et al. 2019), FedAdam, FedYogi and FedAdagrad
(Reddi et al. 2021). All of them see the mean update alone, so they cost no privacy.

What a rule remembers is part of the state, on the same integer grid, so every party has
it to the same bits: a first moment in grid steps g = 2^-f, a second moment in g^2. Every
operation is one float64 ufunc on single coordinates (+ - * / sqrt, rint, sign), which
IEEE 754 rounds alike everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedit_secure.federation.document import Part

FIRST_MOMENT = "server.first_moment"
SECOND_MOMENT = "server.second_moment"
MOMENTS = (FIRST_MOMENT, SECOND_MOMENT)
"""Names of a state's tensors that are no part of the adapter; each has shape (m,)."""

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Rate = Annotated[float, Field(gt=0, le=1e3)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class FedAvg(Part):
    """Adds the mean update."""

    moments: ClassVar[tuple[str, ...]] = ()

    name: Literal["fedavg"] = "fedavg"

    def first(self, fraction_bits: int) -> tuple[int, ...]:
        """What each coordinate of each moment is before the first round."""
        return ()

    def step(
        self, delta: Floats, moments: Sequence[Integers], fraction_bits: int
    ) -> tuple[Floats, list[Floats]]:
        """How far the adapter moves, and the moments afterwards, all in whole steps.

        Args:
            delta: the mean update, float64 (n,), in grid steps, not rounded; may be
                overwritten.
            moments: as they are, each (n,).
            fraction_bits: f of the grid.
        """
        return np.rint(delta, out=delta), []


class FedAvgM(Part):
    """Server momentum: m = momentum * m + delta, and the adapter moves by rate * m."""

    moments: ClassVar[tuple[str, ...]] = (FIRST_MOMENT,)

    name: Literal["fedavgm"] = "fedavgm"
    learning_rate: Rate = 1.0
    momentum: Decay = 0.9

    def first(self, fraction_bits: int) -> tuple[int, ...]:
        """As `FedAvg.first`."""
        return (0,)

    def step(
        self, delta: Floats, moments: Sequence[Integers], fraction_bits: int
    ) -> tuple[Floats, list[Floats]]:
        """As `FedAvg.step`."""
        (before,) = moments
        kept = np.multiply(before, self.momentum, dtype=np.float64)
        after = np.rint(np.add(kept, delta))
        return np.rint(np.multiply(after, self.learning_rate)), [after]


class Adaptive(Part):
    """Rates per coordinate: the adapter moves by rate * m / (sqrt(v) + tau).

    m = b1 * m + (1 - b1) * delta, with (b1, b2) = betas, and with s = delta^2

    - fedadam: v = b2 * v + (1 - b2) * s
    - fedyogi: v = v - (1 - b2) * s * sign(v - s)
    - fedadagrad: v = v + s

    v begins at tau^2. `learning_rate` and `tau` are in units of the adapter's weights.
    """

    moments: ClassVar[tuple[str, ...]] = MOMENTS

    name: Literal["fedadam", "fedyogi", "fedadagrad"]
    learning_rate: Rate
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    tau: Annotated[float, Field(ge=2.0**-20, le=1)] = 1e-3

    def first(self, fraction_bits: int) -> tuple[int, ...]:
        """As `FedAvg.first`."""
        tau = self.tau * float(1 << fraction_bits)
        return (0, round(tau * tau))

    def step(
        self, delta: Floats, moments: Sequence[Integers], fraction_bits: int
    ) -> tuple[Floats, list[Floats]]:
        """As `FedAvg.step`."""
        grid = float(1 << fraction_bits)
        first, second = moments
        b1, _ = self.betas
        kept = np.multiply(first, b1, dtype=np.float64)
        momentum = np.rint(np.add(kept, np.multiply(delta, 1.0 - b1)))
        spread = np.rint(self._second(second, np.multiply(delta, delta)))
        below = np.add(np.sqrt(spread), self.tau * grid)
        raised = np.multiply(momentum, self.learning_rate * grid)
        return np.rint(np.divide(raised, below)), [momentum, spread]

    def _second(self, before: Integers, squared: Floats) -> Floats:
        if self.name == "fedadagrad":
            return np.add(before, squared, dtype=np.float64)
        b2 = self.betas[1]
        share = np.multiply(squared, 1.0 - b2)
        if self.name == "fedadam":
            return np.add(np.multiply(before, b2, dtype=np.float64), share)
        side = np.sign(np.subtract(before, squared, dtype=np.float64))
        return np.subtract(before, np.multiply(share, side), dtype=np.float64)


class ServerRule(Protocol):
    """What any of them is to those who apply it."""

    @property
    def name(self) -> str:
        """What it goes by."""

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of what it remembers: the first so many of MOMENTS."""

    def first(self, fraction_bits: int) -> tuple[int, ...]:
        """As `FedAvg.first`."""

    def step(
        self, delta: Floats, moments: Sequence[Integers], fraction_bits: int
    ) -> tuple[Floats, Sequence[Floats]]:
        """As `FedAvg.step`."""


UpdateRule: TypeAlias = Annotated[
    FedAvg | FedAvgM | Adaptive, Field(discriminator="name")
]
"""A charter's choice, by name."""
