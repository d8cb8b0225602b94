"""The sizes of a release, with defaults where a charter or a plan is silent."""

from __future__ import annotations

from collections.abc import Sequence

from fedit_secure.secagg.params import SecAggParams


def release_sizes(
    silos: int,
    *,
    drawn: int | None = None,
    length: int,
    bound: float,
    ring_bits: int | None = None,
    weights: Sequence[int] | None = None,
    corrupt: int | None = None,
    minimum: int = 0,
    allow_pair: bool = False,
) -> SecAggParams:
    """The sizes of a release (docs/protocol.md, "Parameters").

    Args:
        silos: of the roster.
        drawn: N, those that each round is drawn for; None takes the whole roster.
        length: coordinates of the update.
        bound: S.
        ring_bits: None takes 24, or 32 where rounding at 24 costs more than 1 %.
        weights: None weighs all silos 1.
        corrupt: None takes `default_corrupt` of the roster: whoever colludes may be drawn.
        minimum: the charter's own; t where that is larger.
        allow_pair: whether a roster of two will do.

    Raises:
        ValueError: naming the inequality that doesn't hold.
    """
    if corrupt is None:
        corrupt = default_corrupt(silos)
    size = silos if drawn is None else drawn
    threshold = (size + corrupt) // 2 + 1
    who = (size, corrupt, threshold, max(threshold, minimum))
    weights = (1,) * silos if weights is None else tuple(weights)
    if ring_bits is None:
        try:
            return SecAggParams(*who, length, 24, float(bound), weights, allow_pair)
        except ValueError:
            ring_bits = 32  # if that isn't what is wrong, it's refused again
    return SecAggParams(*who, length, ring_bits, float(bound), weights, allow_pair)


def default_corrupt(silos: int) -> int:
    """How many silos of a roster may collude where nobody says otherwise: max(1,
    floor((silos - 1)/3)), or 0 for a pair.
    """
    return 0 if silos == 2 else max(1, (silos - 1) // 3)
