"""How many silos a round is drawn for: a plan's fraction of the silos that gave a card."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Annotated

from pydantic import Field

from fedit_secure.errors import PlanMisfit
from fedit_secure.federation.release_sizes import default_corrupt

Participation = Annotated[float, Field(gt=0, le=1)]
"""Of the silos, rounded up to a whole one. 1: all of them take part in every round."""


def silos_per_round(
    participation: float, silos: int, corrupt: int | None, minimum: int
) -> int | None:
    """The silos of each round, None for all of `silos`.

    `corrupt` and `minimum` are the plan's secagg settings, None and 0 where it has none.
    Those who may collude may all be drawn for one round, so their number stays what it is.

    Raises:
        PlanMisfit: so few can't make a sum.
    """
    # As it is written: 0.07 is a little more in binary, and a hundred times it 8 silos.
    size = ceil(Fraction(str(participation)) * silos)
    if size >= silos:
        return None
    colluders = default_corrupt(silos) if corrupt is None else corrupt
    least = max(3, colluders + 2)
    drawn = f"the plan's 'participation' draws {size} of {silos} silos a round"
    if size < least:
        raise PlanMisfit(
            "participation",
            f"{drawn}, and {colluders} may collude ('secagg.corrupt'): a round then needs "
            f"{least} at least",
        )
    if size < minimum:
        raise PlanMisfit(
            "participation",
            f"{drawn}, and its 'secagg.minimum' asks for {minimum} in a sum",
        )
    return size
