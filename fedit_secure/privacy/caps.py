"""One cap on a privacy budget, what a run does to it, and the sum that a refusal shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedit_secure.errors import BudgetExhausted

SLACK = 1e-6
"""Two machines' rounding of one calibration."""

LIFETIME, PER_RUN = "in all", "in any one run"
"""What a cap covers."""

PUBLISHED = "max(PLD, PRV)"
"""How charges of one charter are counted."""


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit for the records of `population`. All figures are epsilons at `delta`.

    `covers`: which charges count, as the end of a sentence. `spent`: by those of them that
    were made. `run`: the asked run's whole plan by itself; `after`: with all that is left
    of it. Epsilons of charges don't add up, so `after` may differ from the sum of both.
    `counted_by`: how `after` was composed. Figures are inf where there is no bound; `run`
    and `after` are None where no run is asked for.
    """

    population: str
    covers: str
    limit: float
    delta: float
    spent: float
    run: float | None = None
    after: float | None = None
    counted_by: str = PUBLISHED

    @property
    def left(self) -> float:
        """What is left of the limit, at least 0; inf where there is none."""
        return math.inf if self.limit == math.inf else max(0.0, self.limit - self.spent)

    @property
    def fits(self) -> bool:
        """Whether the run keeps to the limit."""
        return self.after is None or self.after <= self.limit + SLACK

    def require(self) -> None:
        """Raises BudgetExhausted, with the whole sum, unless the run keeps to the limit."""
        if not self.fits:
            raise self.exhausted()

    def exhausted(self) -> BudgetExhausted:
        """The refusal of the run: what is spent, what it costs, what that makes, the cap."""
        return BudgetExhausted(self._sum())

    def _sum(self) -> str:
        assert self.after is not None
        after, limit = _apart(self.after, self.limit)
        whose = f"the records of {self.population!r}"
        if self.covers == PER_RUN:
            return (
                f"the run would cost {whose} epsilon {after} at delta {self.delta:g}, and "
                f"the cap is {limit} {PER_RUN}"
            )
        by = f", by {self.counted_by}" if self.counted_by != PUBLISHED else ""
        return (
            f"the run would bring {whose} to epsilon {after} {self.covers} at delta "
            f"{self.delta:g}{by}: it costs {self.run:.4g}, and {self.spent:.4g} of the cap "
            f"of {limit} is spent"
        )


def _apart(a: float, b: float) -> tuple[str, str]:
    """Both with as few digits as show that they differ, and four at least."""
    for digits in range(4, 10):
        texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts
