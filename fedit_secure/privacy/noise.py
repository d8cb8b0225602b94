"""Cryptographic Gaussian noise on a grid, and Poisson coins, from one 32-byte key.

Both come from AES-256 keystreams under keys derived from the one given. Every
(step, coordinate) and every (step, slot) owns its part of the counter range: any slice,
asked for in any order or split over threads, has the same bits, and no two steps share
a bit. General-purpose generators (Mersenne Twister, Philox) aren't cryptographic:
whoever guesses the state subtracts the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy._core import _multiarray_umath as _numpy  # type: ignore[attr-defined]

from fedit_secure.privacy.box_muller import WORDS, Float64, Words, box_muller

GRID = 2.0**-20
"""The grid's step as a share of the clip: released sums are multiples of GRID * C."""

PAIRS = 1 << 17
"""Pairs of a tile, which takes 4 MiB to work in. With a quarter of them one core is a
tenth faster, but two are slower: they wait for the interpreter lock between numpy's calls."""

TILE = 2 * PAIRS
"""Coordinates that are always computed together, and so always by the same code path:
vectorised logarithms and tangents may differ in the last bit from their scalar tails.
Coordinate k of a tile is the cosine of pair k, coordinate PAIRS + k its sine."""

_COIN_BYTES = 8
_MAX_STEP = 1 << 32
_MAX_INDEX = 1 << 60
_MAX_SLOTS = 1 << 32  # half of a stream's blocks
_ZEROS = memoryview(bytes(8 * PAIRS))  # a cipher turns them into keystream
# The bytes are the same. Where the processor has wide AES, OpenSSL uses it in GCM alone,
# which is then twice as fast as its CTR; elsewhere GCM takes a third longer.
_WIDE_AES: bool = getattr(_numpy, "__cpu_features__", {}).get("AVX512_ICL", False)


class CryptoNoise:
    """Noise and coins of one tuning attempt. Never store the key, never reuse it.

    Two different gradients under the same key give away their difference. So an
    object can be neither pickled nor copied.

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a noise key is neither stored nor copied")

    def keystream(self, step: int, tile: int, out: Words | None = None) -> Words:
        """The bits of the normals of one tile; as secret as the noise.

        Args:
            step: 0 <= step < 2^32; each step is independent of every other one.
            tile: of coordinates tile * TILE to (tile + 1) * TILE - 1.
            out: overwritten and returned, C-contiguous; by default a fresh array.

        Returns:
            int64, shape (3, PAIRS): what `box_muller` takes.

        Raises:
            ValueError: an argument out of range.
        """
        _check_range(step, tile * TILE, TILE)
        words = np.empty((WORDS, PAIRS), np.int64) if out is None else out
        if words.shape != (WORDS, PAIRS) or words.dtype != np.int64:
            raise ValueError(f"the keystream of a tile is int64 ({WORDS}, {PAIRS})")
        stream = _stream(self._normal_key, step, tile)
        for row in words:
            stream.update_into(_ZEROS, row.data.cast("B"))
        return words

    def normals(self, step: int, start: int, count: int) -> Float64:
        """Standard normals of coordinates start..start+count-1 in `step`.

        Args:
            step: as in `keystream`.
            start: first coordinate.
            count: coordinates.

        Returns:
            float64, shape (count,).

        Raises:
            ValueError: an argument out of range.
        """
        _check_range(step, start, count)
        out = np.empty(count, np.float64)

        def take(here: slice, normals: Float64, room: _Room) -> None:
            out[here] = normals

        self._in_tiles(step, start, count, 1.0, take)
        return out

    def coins(self, step: int, slots: int, rate: float) -> npt.NDArray[np.bool_]:
        """Which of slots 0..slots-1 enter the batch of `step`: Poisson sampling.

        The coin of a slot depends on the key, the step and the slot only, not on how
        many slots there are. Its probability is `rate` rounded down by at most 2^-64.

        Args:
            step: as in `keystream`.
            slots: records of the data set, at most 2^32.
            rate: sampling rate q, 0 <= q <= 1.

        Returns:
            bool, shape (slots,).

        Raises:
            ValueError: an argument out of range.
        """
        _check_range(step, 0, slots)
        if slots > _MAX_SLOTS:
            raise ValueError(f"{slots} slots are more than {_MAX_SLOTS}")
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"the sampling rate {rate} isn't in 0..1")
        if rate == 1.0:
            return np.ones(slots, np.bool_)
        raw = _stream(self._coin_key, step, 0).update(bytes(_COIN_BYTES * slots))
        # rate < 1 is at most 1 - 2^-53, so the product is exact and fits 64 bits.
        bar = np.uint64(int(rate * 2.0**64))
        drawn: npt.NDArray[np.bool_] = np.frombuffer(raw, "<u8") < bar
        return drawn

    def add_grid_noise(
        self,
        total: Float64,
        step: int,
        sigma: float,
        clip: float,
        out: Float64 | None = None,
    ) -> Float64:
        """The Gaussian mechanism on the grid of step g = GRID * clip.

        Rounds `total` to the grid, adds rounded normals of standard deviation
        sigma * (clip + g * sqrt(d)), and returns the sum: an integer vector times g.
        Rounding moves each of two neighbouring sums by at most g * sqrt(d) / 2, which
        the second term pays for; rounding the noise then equals rounding the noised
        integer sum, which is post-processing. So this is the Gaussian mechanism with
        noise multiplier `sigma`, and no low bit of a float can give anything away
        (Mironov 2012; arXiv 2112.05307), because what is released is an integer.
        docs/privacy.md has the argument in full, and what the arithmetic adds.

        Args:
            total: float64, shape (d,): the sum of rows of norm at most `clip`.
            step: as in `keystream`.
            sigma: noise multiplier, positive.
            clip: the sum's sensitivity C, positive.
            out: float64, shape (d,): where to write; may be `total` itself. By default
                a fresh array. Holds nothing of use after an error.

        Returns:
            float64, shape (d,), multiples of g.

        Raises:
            ValueError: an argument out of range, or a sum that isn't finite.
        """
        if total.ndim != 1 or total.dtype != np.float64:
            raise ValueError("the sum must be a float64 vector")
        grid, deviation = grid_noise(total.size, sigma, clip)
        _check_range(step, 0, total.size)
        released = np.empty_like(total) if out is None else out
        if released.shape != total.shape or released.dtype != np.float64:
            raise ValueError("the released sum must be as the sum")
        per_grid = 1.0 / grid

        def add(here: slice, normals: Float64, room: _Room) -> None:
            steps = room.steps[: normals.size]
            np.multiply(total[here], per_grid, out=steps)
            np.rint(steps, out=steps)
            np.rint(normals, out=normals)
            steps += normals
            if not np.isfinite(steps, out=room.finite[: normals.size]).all():
                raise ValueError("the sum isn't finite")
            np.multiply(steps, grid, out=released[here])

        self._in_tiles(step, 0, total.size, deviation, add)
        return released

    def _in_tiles(
        self, step: int, start: int, count: int, deviation: float, take: _Take
    ) -> None:
        """Hand on the normals of start..start+count-1, by tiles and on all threads."""

        def run(tiles: range) -> None:
            room = _Room()
            for tile in tiles:
                self.keystream(step, tile, room.words)
                box_muller(room.words, deviation, room.rows)
                at = tile * TILE
                low, high = max(start, at), min(start + count, at + TILE)
                part = room.normals[low - at : high - at]
                take(slice(low - start, high - start), part, room)

        tiles = range(start // TILE, -(-(start + count) // TILE) if count else 0)
        workers = min(self._threads, len(tiles))
        if workers < 2:
            run(tiles)
            return
        each = -(-len(tiles) // workers)
        with ThreadPoolExecutor(workers) as pool:
            runs = (tiles[i : i + each] for i in range(0, len(tiles), each))
            list(pool.map(run, runs))


class _Room:
    """What one thread works in: fresh memory costs more than what is done to it."""

    __slots__ = ("finite", "normals", "rows", "steps", "words")

    def __init__(self) -> None:
        raw = np.empty((WORDS + 1) * PAIRS + 8)
        # On a cache line's start: operations that straddle two lines take twice as long.
        skip = -raw.ctypes.data % 64 // 8
        room = raw[skip : raw.size - 8 + skip].reshape(WORDS + 1, PAIRS)
        # One row apart, as `box_muller` allows: the less there is, the more is in cache.
        self.words: Words = room[:-1].view(np.int64)
        self.rows: Float64 = room[1:]
        self.normals: Float64 = room[2:].reshape(-1)
        self.steps: Float64 = room[:2].reshape(-1)  # used up when the normals are there
        self.finite = np.empty(TILE, np.bool_)


_Take = Callable[[slice, Float64, _Room], None]


def grid_noise(size: int, sigma: float, clip: float) -> tuple[float, float]:
    """The grid's step g, and the noise's standard deviation in units of it.

    Args:
        size: coordinates d of the sum.
        sigma: noise multiplier, positive.
        clip: the sum's sensitivity C, positive.

    Raises:
        ValueError: sigma or clip isn't positive and finite.
    """
    if not (0 < sigma < np.inf and 0 < clip < np.inf):
        raise ValueError(f"sigma {sigma} and clip {clip} must be positive")
    return GRID * clip, sigma * (1.0 + GRID * float(np.sqrt(size))) / GRID


def _derive(key: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(key)


def _stream(key: bytes, step: int, tile: int) -> CipherContext:
    """AES-256 in counter mode from the block step (4 bytes), tile (8), 2 (4) on.

    These are GCM's blocks (NIST SP 800-38D) under the nonce step, tile. Its tag is never
    asked for, so nothing hangs on it.
    """
    nonce = step.to_bytes(4, "big") + tile.to_bytes(8, "big")
    mode = modes.GCM(nonce) if _WIDE_AES else modes.CTR(nonce + b"\0\0\0\2")
    return Cipher(AES256(key), mode).encryptor()


def _check_range(step: int, start: int, count: int) -> None:
    if not 0 <= step < _MAX_STEP:
        raise ValueError(f"the step {step} isn't in 0..{_MAX_STEP - 1}")
    if start < 0 or count < 0 or start + count > _MAX_INDEX:
        raise ValueError(f"coordinates {start}..{start + count} are out of range")
