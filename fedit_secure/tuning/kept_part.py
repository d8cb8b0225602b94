"""What a round has tuned, in two parts: one to be released, one that stays in the silo.

They are apart from the moment they are there: what is released is never cut out of
something longer on its way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedit_secure.federation.aggregation import Factor, Layout, is_of, places

FloatVector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """`update`: float32 (n,), what is released: a change. `kept`: float32 (k,), what stays,
    as it is after the round; empty where all of it is released. Both in the layout's order.
    """

    update: FloatVector = field(repr=False)
    kept: FloatVector = field(repr=False)

    def with_figure(self, figure: FloatVector) -> Tuned:
        """The same with an evaluation's figure, (1,) or none, last in what is released."""
        return Tuned(np.concatenate([self.update, figure]), self.kept)


def divide(
    layout: Layout,
    tuned: Sequence[Factor],
    kept: Sequence[Factor],
    initial: FloatVector,
    change: FloatVector,
) -> Tuned:
    """`change`, of the tuned factors of `layout`, in its two parts.

    Args:
        layout: of the whole adapter.
        tuned: what the round tuned; both for all of the layout.
        kept: which of it stays.
        initial: float32, of what the round tuned: where it began.
        change: float32, alike: by how much it changed.
    """
    if not kept:
        return Tuned(change, np.empty(0, np.float32))
    of_round = [each for each in layout if is_of(each[0], tuned)]
    released = [factor for factor in tuned if factor not in kept]
    after = initial + change
    return Tuned(
        taken(change, places(of_round, released)), taken(after, places(of_round, kept))
    )


def taken(vector: FloatVector, parts: Sequence[slice]) -> FloatVector:
    """A copy of what is in these places, one after the other."""
    return np.concatenate([vector[part] for part in parts])


def put(vector: FloatVector, parts: Sequence[slice], values: FloatVector) -> None:
    """Put `values`, as `taken` gives them, into these places of `vector`."""
    start = 0
    for part in parts:
        stop = start + part.stop - part.start
        vector[part] = values[start:stop]
        start = stop
