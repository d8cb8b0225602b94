"""Cryptographic Gaussian noise on a grid, and Poisson coins, from one 32-byte key.

Both come from AES-256-CTR keystreams under keys derived from the one given. Every
(step, coordinate) and every (step, slot) owns its part of the counter range: any slice,
asked for in any order or split over threads, has the same bits, and no two steps share
a bit. General-purpose generators (Mersenne Twister, Philox) aren't cryptographic:
whoever guesses the state subtracts the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Float64 = npt.NDArray[np.float64]

GRID = 2.0**-20
"""The grid's step as a share of the clip: released sums are multiples of GRID * C."""

TILE = 1 << 14
"""Coordinates that are always computed together, and so always by the same code path:
vectorised logarithms and sines may differ in the last bit from their scalar tails."""

_BLOCK = 16  # bytes of one AES block
_COORDINATE_BYTES = (
    16  # a pair of normals takes 128 bits of radius, 64 of angle, 64 idle
)
_COIN_BYTES = 8
_MAX_STEP = 1 << 32
_MAX_INDEX = 1 << 60
_SMALLEST_UNIFORM = 2.0**-129  # the middle of the lowest of 2^128 cells


class CryptoNoise:
    """Noise and coins of one tuning attempt. Never store the key, never reuse it.

    Two different gradients under the same key give away their difference.

    Args:
        key: 32 secret bytes from the operating system, for this attempt alone.
        threads: threads that share the work; the result doesn't depend on it.

    Raises:
        ValueError: the key isn't 32 bytes, or `threads` isn't positive.
    """

    __slots__ = ("_coin_key", "_normal_key", "_threads")

    def __init__(self, key: bytes, threads: int = 1) -> None:
        if len(key) != 32:
            raise ValueError(f"the noise key has {len(key)} bytes instead of 32")
        if threads < 1:
            raise ValueError(f"threads is {threads}, but must be at least 1")
        self._normal_key = _derive(key, b"fedit/noise/normals/v1")
        self._coin_key = _derive(key, b"fedit/noise/coins/v1")
        self._threads = threads

    def __repr__(self) -> str:
        return "CryptoNoise(<redacted>)"

    def normals(self, step: int, start: int, count: int) -> Float64:
        """Standard normals of coordinates start..start+count-1 in `step`.

        Args:
            step: 0 <= step < 2^32; each step is independent of every other one.
            start: first coordinate.
            count: coordinates.

        Returns:
            float64, shape (count,).

        Raises:
            ValueError: an argument out of range.
        """
        _check_range(step, start, count)
        out = np.empty(count, np.float64)

        def fill(tile: int) -> None:
            low, high = max(start, tile), min(start + count, tile + TILE)
            size = TILE * _COORDINATE_BYTES
            stream = _keystream(self._normal_key, step, tile, size // _BLOCK)
            out[low - start : high - start] = box_muller(stream)[
                low - tile : high - tile
            ]

        self._for_tiles(fill, start, count)
        return out

    def coins(self, step: int, slots: int, rate: float) -> npt.NDArray[np.bool_]:
        """Which of slots 0..slots-1 enter the batch of `step`: Poisson sampling.

        The coin of a slot depends on the key, the step and the slot only, not on how
        many slots there are. Its probability is `rate` rounded down by at most 2^-64.

        Args:
            step: as in `normals`.
            slots: records of the data set.
            rate: sampling rate q, 0 <= q <= 1.

        Returns:
            bool, shape (slots,).

        Raises:
            ValueError: an argument out of range.
        """
        _check_range(step, 0, slots)
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"the sampling rate {rate} isn't in 0..1")
        if rate == 1.0:
            return np.ones(slots, np.bool_)
        blocks = -(-slots * _COIN_BYTES // _BLOCK)
        words = _keystream(self._coin_key, step, 0, blocks).view("<u8")[:slots]
        # rate < 1 is at most 1 - 2^-53, so the product is exact and fits 64 bits.
        drawn: npt.NDArray[np.bool_] = words < np.uint64(int(rate * 2.0**64))
        return drawn

    def add_grid_noise(
        self, total: Float64, step: int, sigma: float, clip: float
    ) -> Float64:
        """The Gaussian mechanism on the grid of step g = GRID * clip.

        Rounds `total` to the grid, adds rounded normals of standard deviation
        sigma * (clip + g * sqrt(d)), and returns the sum: an integer vector times g.
        Rounding moves each of two neighbouring sums by at most g * sqrt(d) / 2, which
        the second term pays for; rounding the noise then equals rounding the noised
        integer sum, which is post-processing. So this is the Gaussian mechanism with
        noise multiplier `sigma`, and no low bit of a float can give anything away
        (Mironov 2012; arXiv 2112.05307), because what is released is an integer.

        Args:
            total: float64, shape (d,): the sum of rows of norm at most `clip`.
            step: as in `normals`.
            sigma: noise multiplier, positive.
            clip: the sum's sensitivity C, positive.

        Returns:
            float64, shape (d,), multiples of g.

        Raises:
            ValueError: an argument out of range, or a sum that isn't finite.
        """
        if not (0 < sigma < np.inf and 0 < clip < np.inf):
            raise ValueError(f"sigma {sigma} and clip {clip} must be positive")
        if total.ndim != 1 or total.dtype != np.float64:
            raise ValueError("the sum must be a float64 vector")
        if not np.isfinite(total).all():
            raise ValueError("the sum isn't finite")
        grid = GRID * clip
        deviation = sigma * (1.0 + GRID * np.sqrt(total.size)) / GRID
        released = self.normals(step, 0, total.size)
        released *= deviation
        np.rint(released, out=released)
        released += np.rint(total / grid)
        released *= grid
        return released

    def _for_tiles(self, fill: Callable[[int], None], start: int, count: int) -> None:
        tiles = range(start - start % TILE, start + count, TILE) if count else range(0)
        if self._threads == 1 or len(tiles) < 2:
            for tile in tiles:
                fill(tile)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(fill, tiles):
                pass


def box_muller(stream: npt.NDArray[np.uint8]) -> Float64:
    """Keystream -> standard normals (Box and Muller 1958), 32 bytes for every two.

    The radius comes from a uniform of full relative precision: its exponent from the
    leading zeros of 128 bits, its mantissa 53 bits. A 53-bit uniform has gaps near 0,
    that is in the tail of the normal, where a distinguisher looks first; ours goes on
    to a radius of 13.4. Close to radius 0 the gaps are 1.5e-8 wide, far below the grid.

    Args:
        stream: uint8, shape (32 k,).

    Returns:
        float64, shape (2 k,).
    """
    words = stream.view("<u8").reshape(-1, 4)
    # The sum rounds the 128-bit integer to 53 significant bits, wherever they start.
    uniform = words[:, 0] * 2.0**-64 + words[:, 1] * 2.0**-128
    np.maximum(uniform, _SMALLEST_UNIFORM, out=uniform)
    radius = np.log(uniform, out=uniform)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle = (words[:, 2] >> np.uint64(11)) * (2.0 * np.pi * 2.0**-53)
    normals = np.empty((len(words), 2), np.float64)
    np.multiply(radius, np.cos(angle), out=normals[:, 0])
    np.multiply(radius, np.sin(angle), out=normals[:, 1])
    return normals.reshape(-1)


def _derive(key: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(key)


def _keystream(
    key: bytes, step: int, first_block: int, blocks: int
) -> npt.NDArray[np.uint8]:
    """AES-256-CTR blocks of `step`; the counter is step (64 bits), block (64 bits)."""
    counter = step.to_bytes(8, "big") + first_block.to_bytes(8, "big")
    encryptor = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
    stream = np.zeros(blocks * _BLOCK, np.uint8)
    encryptor.update_into(stream.data, stream.data)
    return stream


def _check_range(step: int, start: int, count: int) -> None:
    if not 0 <= step < _MAX_STEP:
        raise ValueError(f"the step {step} isn't in 0..{_MAX_STEP - 1}")
    if start < 0 or count < 0 or start + count > _MAX_INDEX:
        raise ValueError(f"coordinates {start}..{start + count} are out of range")
