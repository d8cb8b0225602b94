"""A server rule of the user's own, for simulations alone: no charter can name code.

Every party of a simulation is this process, so all of them have the same rule, and the
digests of their states are held against each other as in any run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.server_rules import MOMENTS, Floats, Integers, ServerRule

Step = Callable[[Floats], Floats]
"""A rule that remembers nothing: the mean update, float64 (n,), in grid steps -> how far the
adapter moves."""


@dataclass(frozen=True, slots=True)
class OwnRule:
    """`rule`, with what it returns held to the grid.

    Its `step` is called with pieces of the adapter, in several threads: a coordinate's step
    may depend on nothing but that coordinate's mean update and moments.
    """

    rule: ServerRule

    @property
    def name(self) -> str:
        """As the user calls it."""
        return self.rule.name

    @property
    def moments(self) -> tuple[str, ...]:
        """The names of what it remembers."""
        return tuple(self.rule.moments)

    def first(self, fraction_bits: int) -> tuple[int, ...]:
        """As `server_rules.FedAvg.first`."""
        return tuple(int(value) for value in self.rule.first(fraction_bits))

    def step(
        self, delta: Floats, moments: Sequence[Integers], fraction_bits: int
    ) -> tuple[Floats, list[Floats]]:
        """As `server_rules.FedAvg.step`: rounded to whole steps.

        Raises ConfigError for a result of another shape, or as many others.
        """
        shape = delta.shape
        moved, after = self.rule.step(delta, moments, fraction_bits)
        found = [np.rint(np.asarray(part, np.float64)) for part in (moved, *after)]
        if len(found) != 1 + len(moments) or any(p.shape != shape for p in found):
            raise ConfigError(
                f"the server rule {self.name!r} must return one step of shape {shape} "
                f"and {len(moments)} moments like it"
            )
        return found[0], found[1:]


@dataclass(frozen=True, slots=True)
class _Stateless:
    name: str
    function: Step
    moments: tuple[str, ...] = ()

    def first(self, fraction_bits: int) -> tuple[int, ...]:
        del fraction_bits
        return ()

    def step(
        self, delta: Floats, moments: Sequence[Integers], fraction_bits: int
    ) -> tuple[Floats, Sequence[Floats]]:
        del moments, fraction_bits
        return self.function(delta), []


def own_rule(given: ServerRule | Step) -> OwnRule:
    """The rule that was given, or the function as a rule without memory.

    Raises ConfigError for what is neither.
    """
    parts = ("name", "moments", "first", "step")
    if all(hasattr(given, part) for part in parts):
        found = OwnRule(cast("ServerRule", given))
        if found.moments != MOMENTS[: len(found.moments)]:
            raise ConfigError(
                f"the moments of server rule {found.name!r} must be the first of "
                f"{', '.join(MOMENTS)}"
            )
        return found
    if callable(given):
        return OwnRule(_Stateless(getattr(given, "__name__", "own"), given))
    raise ConfigError(
        f"a server rule has {', '.join(parts)}, or is a function of the mean update"
    )


class RuledCharter(Charter):
    """A charter in a simulation with a rule of the user's own.

    Its file can't name the rule; what it says of `update_rule` doesn't hold, so nobody but
    this simulation can take part in the run or verify it.
    """

    _own: Any = None

    @property
    def server_rule(self) -> Any:
        """The user's own."""
        return self._own

    @classmethod
    def of(cls, charter: Charter, rule: OwnRule) -> RuledCharter:
        """`charter`, but with this rule."""
        found = cls.from_bytes(charter.to_bytes(), "the charter")
        found._own = rule  # noqa: SLF001
        return found
