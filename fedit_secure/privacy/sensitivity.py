"""How far one unit can move a sum that is computed in floating point."""

from __future__ import annotations

ROUNDING_SLACK = 1e-4
"""Of the bound, at least: what the noise covers beyond it."""


def sensitivity(clip: float, expected: int) -> float:
    """How far one unit can move the sum: its clipped norm, and float32 rounding.

    Another record in the batch changes the padding and the grouping of the others,
    which moves each one's float32 gradient: on the public base model and Dolly by 5e-7
    of its norm in the median and 3e-6 at most, and the sum of 64 by 1e-5 of the clip.
    The noise covers 1e-6 for each of them, and never less than 1e-4, on top of the clip.
    That is measured, not a worst case: terms that nearly cancel, as a person's records
    may, lose more of what is left. Fixed shapes (`Packing.fixed`) exclude it altogether,
    and are used for everything below float32, where no margin would do.
    """
    return clip * (1.0 + max(ROUNDING_SLACK, 1e-6 * expected))
