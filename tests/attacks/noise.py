"""Whether numbers are uniform noise: a test that can fail, with a known false alarm rate.

Every byte of every coordinate is counted, and the counts are held against the uniform
distribution by a chi-square test; so are the differences of neighbours, because a sequence
may be uniform and still repeat itself. Nothing here asks what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.stats import chi2

ALARM = 1e-6  # the chance that `is_noise` says no of true noise, whatever it is given


def is_noise(rings: Iterable[np.ndarray], bits: int) -> bool:
    """Whether all of these vectors of the ring look uniform.

    Args:
        rings: uint32 vectors, of which the low `bits` bits count; at least 2048 numbers
            each, so that every byte value is expected eight times and more.
        bits: 24 or 32.
    """
    rings = [ring & np.uint32((1 << bits) - 1) for ring in rings]
    seen = [_chi_square(byte) for ring in rings for byte in _bytes(ring, bits)]
    # Bonferroni: each single test has its share of the false alarms.
    limit = chi2.isf(ALARM / len(seen), df=255)
    return bool(max(seen) < limit)


def _bytes(ring: np.ndarray, bits: int) -> Iterable[np.ndarray]:
    assert ring.size >= 2048, "too few numbers for a chi-square test"
    for shift in range(0, bits, 8):
        yield ring >> shift & 255
        yield ring[1::2] - ring[: 2 * (ring.size // 2) : 2] >> shift & 255


def _chi_square(values: np.ndarray) -> float:
    counts = np.bincount(values, minlength=256)
    expected = values.size / 256
    return float(((counts - expected) ** 2 / expected).sum())
