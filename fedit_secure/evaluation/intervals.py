"""How much the choice of records moves a mean. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RESAMPLES = 9_999
_CELLS = 4_000_000  # of one batch of resamples: bounds memory, changes nothing


def interval(
    differences: npt.NDArray[np.float64] | None, confidence: float, seed: int
) -> tuple[float | None, float | None]:
    """The bootstrap interval (BCa, Efron 1987) of the mean of paired differences.

    Both models score the same records, so what is resampled is a record's difference.
    Differences that are all the same have an interval without width; (None, None) for
    fewer than two.
    """
    # Imported here because it takes a second, and most commands need none.
    from scipy.stats import bootstrap

    if differences is None or len(differences) < 2:
        return None, None
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return mean, mean
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, _CELLS // len(differences)),
        confidence_level=confidence,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
