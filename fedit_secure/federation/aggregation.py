"""Which LoRA factors a round tunes, releases and moves.

A layer's change is B A, with A (rank, in) and B (out, rank).

- fedit (the paper's): A and B, each averaged by itself. The mean of products isn't the
  product of means, which is the method's known inexactness.
- ffa (Sun et al. 2024): B alone, A stays as it was drawn. B A is linear in B, so the mean
  is exact, and noise isn't multiplied by noise. Half the coordinates.
- alternating (Chen et al. 2024, RoLoRA): B in odd rounds, A in even ones: exact in each.
  B goes first: it begins at zero, where A has no gradient.
- fedsa (Guo et al. 2024, FedSA-LoRA): A and B are tuned, A alone is released. Each silo
  keeps a B of its own, and so an adapter of its own; the global state's B stays where
  the run began.

What isn't tuned has no gradient to clip, takes no noise and isn't sent. What is tuned and
kept has had the same clip and the same noise as what is sent: it was trained on records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

Aggregation = Literal["ffa", "alternating", "fedsa"]
Factor = Literal["A", "B"]
Layout: TypeAlias = Sequence[tuple[str, Sequence[int]]]
BOTH: tuple[Factor, ...] = get_args(Factor)

_FACTOR = re.compile(r"\.lora_([AB])(?:\.|$)")


def factors(aggregation: Aggregation | None, round: int) -> tuple[Factor, ...]:
    """What a round (from 1) tunes; None is the paper's method."""
    if aggregation in (None, "fedsa"):
        return BOTH
    return ("A",) if aggregation == "alternating" and round % 2 == 0 else ("B",)


def kept_factors(aggregation: Aggregation | None) -> tuple[Factor, ...]:
    """Which of what a round tunes stays in the silo, as its own."""
    return ("B",) if aggregation == "fedsa" else ()


def released_factors(aggregation: Aggregation | None, round: int) -> tuple[Factor, ...]:
    """Which of what a round (from 1) tunes is released and moves the global state."""
    kept = kept_factors(aggregation)
    return tuple(each for each in factors(aggregation, round) if each not in kept)


def is_of(name: str, tuned: Sequence[Factor]) -> bool:
    """Whether a tensor of this name is one of these factors.

    Raises ValueError if it is neither and one alone is asked for.
    """
    if tuple(tuned) == BOTH:
        return True
    found = _FACTOR.search(name)
    if found is None:
        raise ValueError(f"the tensor {name!r} is neither a LoRA A nor a B")
    return found[1] in tuned


def places(layout: Layout, tuned: Sequence[Factor]) -> tuple[slice, ...]:
    """Where these factors are in a flat vector ordered as `layout`, in its order.

    Raises ValueError for a tensor that is neither, unless both are asked for.
    """
    found: list[slice] = []
    start = 0
    for name, shape in layout:
        stop = start + math.prod(shape)
        if is_of(name, tuned):
            # Neighbours are one piece: the fewer, the faster.
            first = found.pop().start if found and found[-1].stop == start else start
            found.append(slice(first, stop))
        start = stop
    return tuple(found)


def length_of(parts: Sequence[slice]) -> int:
    """Coordinates in these places."""
    return sum(part.stop - part.start for part in parts)


def release_length(layout: Layout, aggregation: Aggregation | None) -> int:
    """Coordinates of every release of a run: of the round that has most."""
    kinds = (released_factors(aggregation, round) for round in (1, 2))
    return max(length_of(places(layout, released)) for released in kinds)
