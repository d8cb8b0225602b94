"""AES-256 keystreams, and the loop that takes a vector through the cache on all cores.

A stream is cut into *tiles* of 2 MiB, one for 2^19 coordinates. Tile i is AES-256 in
counter mode (NIST SP 800-38A) from the counter block i (12 bytes), 2 (4 bytes) on, all
big-endian: the blocks that GCM (SP 800-38D) encrypts with under the nonce i.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from numpy._core import _multiarray_umath as _numpy  # type: ignore[attr-defined]
from numpy.typing import NDArray

Scratch = tuple[NDArray[np.float64], NDArray[np.float64]]  # each of one piece
Work = Callable[[slice, list[CipherContext], Scratch], object]
TAG_PRIME = 2**61 - 1
TILE = 1 << 19  # coordinates
PIECE = 1 << 16  # coordinates of a tile that stay in cache while they're worked on
CORES = os.cpu_count() or 1
ZEROS = memoryview(bytes(4 * PIECE))  # a cipher turns them into keystream
# The bytes are the same. Where the processor has wide AES, OpenSSL uses it in GCM alone,
# which is then twice as fast as its CTR; elsewhere GCM takes a third longer.
WIDE_AES: bool = getattr(_numpy, "__cpu_features__", {}).get("AVX512_ICL", False)


def keystream(seed: bytes, tile: int) -> CipherContext:
    """The stream of a 32-byte seed from the start of a tile to its end, at most.

    It is safe that seeds meet no other nonce: one is derived for one stream only, and no
    two places of a stream share a counter block. GCM's tag is never asked for.
    """
    nonce = tile.to_bytes(12, "big")
    mode = modes.GCM(nonce) if WIDE_AES else modes.CTR(nonce + b"\0\0\0\2")
    return Cipher(AES256(seed), mode).encryptor()


def fill(array: NDArray[Any], stream: CipherContext) -> NDArray[Any]:
    """The array, of at most one piece, overwritten with the stream's next bytes."""
    stream.update_into(ZEROS[: array.nbytes], array.data.cast("B"))
    return array


def elements(seed: bytes, count: int, tile: int = 0) -> NDArray[np.int64]:
    """`count` integers mod p = 2^61 - 1, one per 16-byte block from a tile's start on.

    Each is its block as a little-endian integer mod p: uniform up to 2^-67.
    """
    sizes = (min(4 * TILE, 16 * count - at) for at in range(0, 16 * count, 4 * TILE))
    tiles = enumerate(map(bytes, sizes), tile)
    raw = b"".join(keystream(seed, i).update(zeros) for i, zeros in tiles)
    low, high = np.frombuffer(raw, "<u8").reshape(-1, 2).T % TAG_PRIME
    # 2^64 = 8 mod p, and 8 * high < 2^64.
    return np.asarray((low + high * 8 % TAG_PRIME) % TAG_PRIME, np.int64)


def in_pieces(length: int, work: Work, seeds: Sequence[bytes] = ()) -> None:
    """Do `work` on the pieces that make up range(length), on all cores.

    Every core has a run of whole tiles, and takes its pieces in order. Ciphers and numpy
    let go of the interpreter lock while they work. `work` also gets the streams of the
    seeds, each where its piece begins, and room that is its core's own: fresh memory costs
    more than what is done to it. What comes out mustn't depend on the cores.
    """
    workers = min(CORES, -(-length // TILE))
    each = -(-length // (workers * TILE)) * TILE

    def run(start: int) -> None:
        scratch = (np.empty(PIECE), np.empty(PIECE))
        for at in range(start, min(start + each, length), PIECE):
            if at % TILE == 0:
                streams = [keystream(seed, at // TILE) for seed in seeds]
            work(slice(at, min(at + PIECE, length)), streams, scratch)

    with ThreadPoolExecutor(workers) as pool:
        list((map if workers == 1 else pool.map)(run, range(0, length, each)))
