"""How a silo's figure on its held-out units is clipped, noised and charged.

Every held-out unit contributes its response NLL in nats, clipped to [0, C] and counted
from the middle: a number within C/2 of zero. So a unit that is zeroed out, added or
removed moves the sum by C/2 at most, half of what it would if it were counted from zero.
What is released is (sum + noise) / expected, from which C/2 more is the mean NLL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from fedit_secure.privacy.sensitivity import sensitivity


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """One silo's evaluation in every round, fixed before the first record is drawn.

    Args:
        clip: C, in nats: what one unit's mean response NLL counts as at most.
        noise_multiplier: the noise's standard deviation in units of `bound`; 0 in a run
            without differential privacy, and nowhere else.
        expected: how many held-out units there are said to be: the public constant that
            the sum is divided by, whatever their number is.

    Raises:
        ValueError: a parameter is out of range; one sentence that names it.
    """

    clip: float
    noise_multiplier: float
    expected: int

    def __post_init__(self) -> None:
        for name in ("clip", "noise_multiplier"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"evaluation: {name} is {value!r}, not a number")  # noqa: TRY004
            object.__setattr__(self, name, float(value))
        if not 0 < self.clip < math.inf:
            raise ValueError(f"evaluation: clip is {self.clip}, but must be positive")
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(
                f"evaluation: noise_multiplier is {self.noise_multiplier}, but must be "
                "finite and not negative"
            )
        count = self.expected
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"evaluation: expected is {count!r}, not a positive count")

    @property
    def middle(self) -> float:
        """C/2, in nats: what a unit that says nothing counts as."""
        return self.clip / 2

    @property
    def bound(self) -> float:
        """How far one unit can move the sum: C/2, and float32's rounding of the others."""
        return sensitivity(self.middle, self.expected)

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise in the released mean, in nats."""
        return self.noise_multiplier * self.bound / self.expected

    def as_dict(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, document: Any) -> EvaluationPlan:
        """The plan of `as_dict`'s object. Raises ValueError for any other."""
        names = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or set(document) != names:
            raise ValueError(
                f"evaluation must have the fields {', '.join(sorted(names))}"
            )
        return cls(**document)
