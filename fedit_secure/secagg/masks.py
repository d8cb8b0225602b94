"""The seeds of mask streams, and the streams added to a vector mod 2^32.

Bonawitz et al., CCS 2017, figure 4, round 2. Every pair of silos shares a seed: one
adds its stream, the other subtracts it, so the sum of all masked vectors keeps none.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext
from numpy.typing import NDArray

from fedit_secure.secagg import keystream as ks
from fedit_secure.secagg.keys import ExchangeKey, hkdf
from fedit_secure.secagg.transcript import Bound, join, u64

Streams = Sequence[tuple[bytes, int]]  # (32-byte seed, +1 or -1) each
Take = Callable[[slice, NDArray[np.uint32]], object]  # (where, what is there)


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
    info = join(b"fedit/mask/v1", *bound[1:], *map(u64, sorted((me, peer))))
    seed = hkdf(own.exchange(public), bound.charter, info)
    return seed, 1 if me < peer else -1


def add_streams(vector: NDArray[Any], streams: Streams, take: Take) -> int:
    """Add signed mask streams to a vector, mod 2^32; returns the sum of their tag masks.

    A stream is one little-endian uint32 per coordinate, in every ring. Its tag mask is
    the first element of its first tile that has no coordinate, an integer mod
    p = 2^61 - 1: no byte of the stream is used twice.

    Args:
        vector: int32 or uint32 of shape (m,). It stays as it is.
        streams: what to add.
        take: gets each piece of the sum, while it is in cache; it mustn't keep it. Pieces
            come in no order, and from several threads.

    Returns:
        The signed sum of the tag masks, in 0 <= sum < p.
    """

    def work(here: slice, ciphers: list[CipherContext], scratch: ks.Scratch) -> None:
        piece = vector[here].view(np.uint32)
        mask, out = (room.view("<u4")[: piece.size] for room in scratch)
        zeros, raw = ks.ZEROS[: mask.nbytes], mask.data.cast("B")
        for cipher, (_, sign) in zip(ciphers, streams, strict=True):
            cipher.update_into(zeros, raw)
            piece = (np.add if sign > 0 else np.subtract)(piece, mask, out)
        take(here, piece)

    ks.in_pieces(vector.size, work, [seed for seed, _ in streams])
    after = -(-vector.size // ks.TILE)
    tags = (sign * int(ks.elements(seed, 1, after)[0]) for seed, sign in streams)
    return sum(tags) % ks.TAG_PRIME
