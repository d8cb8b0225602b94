"""Masks, payloads and means as tests want them: whole vectors, and their own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fedit_secure.secagg import fixed_point, masks
from fedit_secure.secagg.params import SecAggParams
from fedit_secure.secagg.tag import TagKey


def added(vector: np.ndarray, streams: masks.Streams) -> tuple[np.ndarray, int]:
    """The vector with the streams added, fresh, and the sum of their tag masks."""
    total = np.empty(vector.size, np.uint32)

    def take(here: slice, piece: np.ndarray) -> None:
        total[here] = piece

    tag = masks.add_streams(vector, streams, take)
    return total, tag


def forget_masks(patch: pytest.MonkeyPatch) -> None:
    """From now on nobody masks: what a test of masks is held against."""
    real = masks.add_streams
    patch.setattr(
        masks, "add_streams", lambda vector, streams, take: real(vector, [], take)
    )


def packed(ring: np.ndarray, ring_bits: int) -> bytes:
    """A payload with these coordinates and a tag of zero."""
    payload = np.zeros(ring.size * ring_bits // 8 + 8, np.uint8)
    fixed_point.pack(payload, ring_bits, slice(0, ring.size), ring)
    return payload.tobytes()


def ring_of(payload: bytes | memoryview, length: int, ring_bits: int) -> np.ndarray:
    """The coordinates of a payload, fresh, and no bit beyond the ring's."""
    ring = fixed_point.unpack(payload, length, ring_bits)
    return ring & np.uint32((1 << ring_bits) - 1)


def inner(key: TagKey, values: np.ndarray) -> int:
    """<rho, values> mod p."""
    return key.inner(values)


def alpha(key: TagKey, row: int) -> int:
    """The element of a row, from its limbs."""
    return sum(int(limb) << 13 * i for i, limb in enumerate(key.alpha[row]))


def beta(key: TagKey, column: int) -> int:
    """The element of a column, from its limbs."""
    limbs = enumerate(key.beta[column])
    return sum(int(limb) << key.width * i for i, limb in limbs)


def tag_of(key: TagKey, silo: int, values: np.ndarray) -> int:
    """tau of a silo's update."""
    return (inner(key, values) + key.pads[silo]) % (2**61 - 1)


def step_of(params: SecAggParams) -> float:
    """S/M: what one unit of the ring is worth."""
    return params.bound / params.magnitude


def mean_of(
    total: np.ndarray, params: SecAggParams, contributors: Sequence[int]
) -> np.ndarray:
    """The weighted mean of the contributors' updates, float64."""
    share = sum(params.weights[u] for u in contributors) / max(params.weights)
    return total.astype(np.float64) * (step_of(params) / share)
