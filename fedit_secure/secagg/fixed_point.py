"""Float vectors as integers of the ring, and the packed bytes of masked ones.

Every coordinate becomes an integer of at most M, and N * M < 2^(b-1): no sum of a
roster can wrap, whatever the signs (protocol.md, "Encoding").
"""

from dataclasses import field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext
from numpy.typing import NDArray

from fedit_secure.secagg.keys import Bad
from fedit_secure.secagg.keystream import Scratch, fill, in_pieces
from fedit_secure.secagg.params import SecAggParams
from fedit_secure.secagg.transcript import Blob, Value

_COIN = 2.0**-16  # of a step: what a coin of 16 bits is worth


class Encoded(Value):
    """A silo's update in the ring.

    Attributes:
        values: int32 of shape (length,), none beyond +-M. Secret until masked.
        scale: what the update was multiplied with to fit +-S; 1.0 if it did.
    """

    values: NDArray[np.int32] = field(repr=False)
    scale: float


def encode(update: NDArray[Any], sizes: SecAggParams, silo: int, key: bytes) -> Encoded:
    """Scale to M, times (w_u / w_max), and round to an integer without bias.

    An update with a coordinate beyond +-S is scaled as a whole by S / max|x|, never
    clipped. Stochastic rounding takes a 16-bit coin a coordinate: the mean is the true
    value up to 2^-16 of a step, and each coordinate is off by less than a step.

    Args:
        update: float32 or float64 of shape (length,).
        sizes: the charter's sizes.
        silo: roster index, for its weight.
        key: 32 fresh random bytes, for the coins.

    Raises:
        ValueError: if the update has another shape or type, or isn't finite.
    """
    if update.shape != (sizes.length,) or update.dtype.kind != "f":
        raise ValueError(f"an update has {sizes.length} floats, not {update.shape}")
    # Weights are integers, so this quotient is at most M. And |x| * scale passes M, in
    # coins, by less than one: with less than half a step on top it still rounds to M. So
    # no integer is beyond +-M, at the cost of no further look at them.
    grid = sizes.magnitude * sizes.weights[silo] / max(sizes.weights)
    ceiling, values = sizes.bound, np.empty(sizes.length, np.int32)
    peaks: list[float] = []

    def work(here: slice, ciphers: list[CipherContext], scratch: Scratch) -> None:
        part = update[here]
        floats, coins = (room[: part.size] for room in scratch)
        drawn = fill(coins.view("<i2")[: part.size], ciphers[0])
        peaks.append(peak := max(float(part.max()), -float(part.min())))
        if peak <= ceiling:  # which NaN isn't
            floats[:] = part
            floats *= grid / ceiling / _COIN
            drawn |= 1  # so the mean is zero, and half a step isn't reached
            floats += drawn
            # So large that whole steps are left, in the low half of the bits.
            floats += 1.5 * 2.0**52 / _COIN
            values[here] = floats.view("<i4")[::2]

    while True:
        in_pieces(sizes.length, work, [key])
        if (peak := float(np.max(peaks))) <= ceiling:
            return Encoded(values, sizes.bound / ceiling)
        if not np.isfinite(peak):
            raise ValueError("the update holds a coordinate that isn't finite")
        ceiling = peak  # and all of it again


def check_sum(total: NDArray[np.int32], params: SecAggParams, silos: int) -> None:
    """Raise Bad (a ValueError) unless so many updates can add up to every integer."""
    reach = silos * params.magnitude
    if total.max() > reach or total.min() < -reach:
        raise Bad(f"a coordinate is beyond the {reach} that the sizes allow")


def pack(
    payload: NDArray[np.uint8], ring_bits: int, here: slice, piece: NDArray[np.uint32]
) -> None:
    """Write the low 24 or 32 bits of these coordinates of a payload, little-endian."""
    width = ring_bits // 8
    first, last = width * here.start, width * (here.stop - 1)
    # Four bytes every three: what one writes beyond its own, the next overwrites. So the
    # last writes no more than its own: what follows may be another thread's.
    there = np.ndarray(piece.size - 1, "<u4", payload, first, (width,))
    there[:] = piece[:-1]
    payload[last : last + width] = piece[-1:].astype("<u4").view(np.uint8)[:width]


def unpack(payload: Blob, length: int, ring_bits: int) -> NDArray[np.uint32]:
    """The coordinates at the head of a payload, as a uint32 view of shape (length,).

    They are right mod 2^b: bits beyond b are those of whatever stands behind. The tag
    stands behind the last.

    Raises:
        ValueError: unless the payload has their bytes and the tag's eight.
    """
    if memoryview(payload).nbytes != length * ring_bits // 8 + 8:
        raise Bad(f"{length} coordinates and a tag don't take {len(payload)} bytes")
    return np.ndarray(length, "<u4", payload, 0, (ring_bits // 8,))


def add_packed(total: NDArray[np.uint32], payload: Blob, ring_bits: int) -> None:
    """Add the coordinates of a payload to `total`, in place, mod 2^b."""
    ring = unpack(payload, total.size, ring_bits)
    in_pieces(total.size, lambda at, *_: np.add(total[at], ring[at], out=total[at]))


def lift_signed(ring: NDArray[np.uint32], ring_bits: int) -> NDArray[np.int32]:
    """The signed integers that the low `ring_bits` bits stand for, int32."""
    return (ring << (32 - ring_bits)).view(np.int32) >> (32 - ring_bits)
