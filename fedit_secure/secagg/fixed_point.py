"""Float vectors as integers of the ring, their sum as floats, and the packed bytes.

Every coordinate becomes an integer of at most M, and N * M < 2^(b-1): no sum of a
roster can wrap, whatever the signs (protocol.md, "Encoding").
"""

from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg.keys import Bad
from fedit_secure.secagg.masks import ZEROS, keystream
from fedit_secure.secagg.params import SecAggParams
from fedit_secure.secagg.transcript import Blob, Silos, Value

_TILE = 1 << 16  # coordinates: a tile's float64s and coins stay in cache


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
    clipped. Stochastic rounding takes a 22-bit coin a coordinate: the mean is the true
    value up to 2^-22 of a step, and each coordinate is off by less than a step.

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
    peak = max(float(update.max()), -float(update.min()))
    if not np.isfinite(peak):
        raise ValueError("the update holds a coordinate that isn't finite")
    ceiling = max(peak, sizes.bound)
    grid = sizes.magnitude * sizes.weights[silo] / max(sizes.weights)
    coins, values = keystream(key), np.empty(sizes.length, np.int32)
    coin = np.empty(min(_TILE, sizes.length), "<u4")
    for at in range(0, sizes.length, _TILE):
        part = np.multiply(update[at : at + _TILE], grid / ceiling, dtype=np.float64)
        np.clip(part, -grid, grid, out=part)  # a product may round past it
        # grid <= M, and M + 1 - 2^-22 is a float64: no coin lifts a coordinate past M.
        coins.update_into(ZEROS[: 4 * part.size], coin.data.cast("B"))
        part += (coin[: part.size] >> 10).view(np.int32) * 2.0**-22
        values[at : at + _TILE] = np.floor(part, out=part)
    check_sum(values, sizes, 1)
    return Encoded(values, sizes.bound / ceiling)


def decode(total: NDArray[np.int32], sizes: SecAggParams, u3: Silos) -> NDArray[Any]:
    """The weighted mean of the contributors' updates, float64 of shape (length,).

    Before it is divided by their weights, a coordinate is within n * step of the sum of
    the n true (w_u / w_max) * x_u, up to float64 rounding (2^-20 of it).

    Args:
        total: the sum of their encoded updates, int32 of shape (length,).
        sizes: the charter's sizes.
        u3: the contributors' roster indices.

    Raises:
        ValueError: if a coordinate is beyond what they can add up to.
    """
    check_sum(total, sizes, len(u3))
    share = sum(sizes.weights[u] for u in u3) / max(sizes.weights)
    return total.astype(np.float64) * (sizes.step / share)


def check_sum(total: NDArray[np.int32], params: SecAggParams, silos: int) -> None:
    """Raise Bad (a ValueError) unless so many updates can add up to every integer."""
    reach = silos * params.magnitude
    if total.max() > reach or total.min() < -reach:
        raise Bad(f"a coordinate is beyond the {reach} that the sizes allow")


def pack(ring: NDArray[np.uint32], ring_bits: int) -> memoryview:
    """The low 24 or 32 bits of every coordinate, little-endian, as bytes.

    At 32 bits the bytes are the vector's own memory: don't change it meanwhile.
    """
    source = np.ascontiguousarray(ring, "<u4").view(np.uint8)
    if ring_bits == 32:
        return source.data
    packed = np.empty(3 * ring.size, np.uint8)
    for byte in range(3):  # three strided copies: far faster than one of 3-byte items
        packed[byte::3] = source[byte::4]
    return packed.data


def unpack(payload: Blob, length: int, ring_bits: int) -> NDArray[np.uint32]:
    """The coordinates that `pack` wrote: a fresh uint32 vector of shape (length,).

    Raises:
        ValueError: if the payload has another size.
    """
    source = np.frombuffer(payload, np.uint8)
    if source.size != length * ring_bits // 8:
        raise ValueError(f"{length} coordinates don't pack to {source.size} bytes")
    if ring_bits == 32:
        return source.view("<u4").astype(np.uint32)
    ring = np.zeros(4 * length, np.uint8)
    for byte in range(3):
        ring[byte::4] = source[byte::3]
    return ring.view("<u4").astype(np.uint32, copy=False)


def lift_signed(ring: NDArray[np.uint32], ring_bits: int) -> NDArray[np.int32]:
    """The signed integers that the low `ring_bits` bits stand for, int32."""
    return (ring << (32 - ring_bits)).view(np.int32) >> (32 - ring_bits)
