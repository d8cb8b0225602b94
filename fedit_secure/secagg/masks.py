"""Seeds and mask streams: AES-256-CTR keystream, added to a vector mod 2^32.

Bonawitz et al., CCS 2017, figure 4, round 2. Every pair of silos shares a seed: one
adds its stream, the other subtracts it, so the sum of all masked vectors keeps none.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from numpy.typing import NDArray

from fedit_secure.secagg.keys import ExchangeKey, hkdf
from fedit_secure.secagg.transcript import Bound, join, u64

Streams = Sequence[tuple[bytes, int]]  # (32-byte seed, +1 or -1) each
TAG_PRIME = 2**61 - 1
TILE = 1 << 18  # coordinates: 1 MiB, so that a tile stays in cache
ZEROS = memoryview(bytes(4 * TILE))  # a cipher turns them into keystream


def self_stream(b_u: bytes, bound: Bound, sign: int) -> tuple[bytes, int]:
    """(self_u, sign): the stream of a silo's own mask, from its shared secret b_u."""
    return hkdf(b_u, b"", join(b"fedit/self/v1", *bound[1:])), sign


def pair_stream(
    own: ExchangeKey, bound: Bound, me: int, peer: int, public: bytes
) -> tuple[bytes, int]:
    """(s_uw, sign): `me`'s half of the mask that two silos share; the other cancels it.

    The lower roster index adds the stream, the higher subtracts it. Silos that were
    shown different models, rosters, sets or rounds differ in ctx, K or H(U2), hence in
    their seeds: what they upload sums to noise.

    Raises:
        Bad: if no secret can be shared with `public`, the peer's key.
    """
    low, high = sorted((me, peer))
    info = join(b"fedit/mask/v1", *bound[1:], u64(low), u64(high))
    seed = hkdf(own.exchange(public), bound.charter, info)
    return seed, 1 if me < peer else -1


def keystream(seed: bytes, block: int = 0) -> CipherContext:
    """AES-256-CTR from 16-byte block `block` on (NIST SP 800-38A, big-endian counter).

    The zero nonce is safe: a 32-byte seed is derived for one stream only, and no two
    places of a stream share a counter.
    """
    return Cipher(AES256(seed), modes.CTR(block.to_bytes(16, "big"))).encryptor()


def elements(seed: bytes, first: int, count: int) -> NDArray[np.int64]:
    """`count` integers mod p = 2^61 - 1, one per block of the stream from `first` on.

    Each is its 16 bytes as a little-endian integer mod p: uniform up to 2^-67.
    """
    raw = keystream(seed, first).update(bytes(16 * count))
    low, high = np.frombuffer(raw, "<u8").reshape(-1, 2).T % TAG_PRIME
    # 2^64 = 8 mod p, and 8 * high < 2^64.
    return np.asarray((low + high * 8 % TAG_PRIME) % TAG_PRIME, np.int64)


def add_streams(vector: NDArray[np.uint32], streams: Streams, threads: int = 0) -> int:
    """Add signed mask streams to `vector` in place, mod 2^32, return their tag mask.

    A stream is one little-endian uint32 per coordinate, in every ring. Its tag mask is
    its first whole 16-byte block after the coordinates, as an integer mod p = 2^61 - 1:
    no byte of the stream is used twice.

    Args:
        vector: uint32 of shape (m,), contiguous.
        streams: what to add.
        threads: 0 takes all cores. The result doesn't depend on it.

    Returns:
        The signed sum of the tag masks, in 0 <= sum < p.

    Raises:
        ValueError: if the vector isn't as above, or a sign isn't +1 or -1.
    """
    if vector.dtype != np.uint32 or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise ValueError("masks are added to a contiguous uint32 vector")
    if any(sign not in (1, -1) for _, sign in streams):
        raise ValueError("a mask's sign is +1 or -1")
    length = vector.size
    tiles = max(1, -(-length // TILE))
    workers = min(threads or os.cpu_count() or 1, tiles)
    # A worker owns a run of whole tiles, which starts on a block of every stream. The
    # cipher and numpy both let go of the interpreter lock while they work.
    run = -(-tiles // workers) * TILE
    starts = range(0, length, run)
    runs = (vector[start : start + run] for start in starts)
    with ThreadPoolExecutor(workers) as pool:
        each = map if workers == 1 else pool.map
        list(each(lambda part, at: _add_run(part, at, streams), runs, starts))
    after = -(-length // 4)  # the first block that holds no coordinate
    return sum(sign * int(elements(s, after, 1)[0]) for s, sign in streams) % TAG_PRIME


def _add_run(run: NDArray[np.uint32], start: int, streams: Streams) -> None:
    ciphers = [(keystream(seed, start // 4), sign) for seed, sign in streams]
    buffer = np.empty(min(TILE, run.size), dtype="<u4")
    raw = buffer.data.cast("B")
    for at in range(0, run.size, TILE):
        tile = run[at : at + TILE]  # in cache while every stream passes over it
        for cipher, sign in ciphers:
            cipher.update_into(ZEROS[: tile.nbytes], raw)
            add = np.add if sign > 0 else np.subtract
            add(tile, buffer[: tile.size], out=tile)
