"""Shamir's sharing of 32-byte secrets (Shamir 1979), and commitments to shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from fedit_secure.secagg.keys import Bad
from fedit_secure.secagg.transcript import Bound, digest, u64

PRIME: Final = 2**256 + 297  # the least prime above every 32-byte secret
SHARE_BYTES: Final = 33


def split(
    secret: bytes,
    threshold: int,
    holders: Sequence[int],
    randomness: Callable[[int], bytes],
) -> dict[int, bytes]:
    """Share a secret: any `threshold` shares open it, fewer say nothing about it.

    Args:
        secret: 32 bytes.
        threshold: t >= 1.
        holders: distinct roster indices, at least t; holder v gets the value at v + 1.
        randomness: called with a byte count, returns that many fresh uniform bytes.

    Returns:
        A 33-byte little-endian share per holder.
    """
    if len(secret) != 32:
        raise ValueError(f"a shared secret has 32 bytes, not {len(secret)}")
    if not 1 <= threshold <= len(set(holders)) == len(holders) or min(holders) < 0:
        raise ValueError(f"{threshold} shares can't open a secret held by {holders}")
    coefficients = [_uniform(randomness) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "little"))
    shares = {}
    for holder in holders:
        value = 0
        for coefficient in coefficients:  # Horner's rule, the secret last
            value = (value * (holder + 1) + coefficient) % PRIME
        shares[holder] = value.to_bytes(SHARE_BYTES, "little")
    return shares


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The 32-byte secret behind exactly `threshold` shares, by roster index.

    Raises:
        ValueError: if there are fewer or more, one isn't 33 bytes below the prime, or
            what they give isn't a 32-byte secret.
    """
    if len(shares) != threshold or threshold < 1:
        raise ValueError(f"a secret opens with {threshold} shares, not {len(shares)}")
    holders = tuple(sorted(shares))
    total = 0
    for holder, weight in zip(holders, _weights_at_zero(holders), strict=True):
        value = int.from_bytes(shares[holder], "little")
        if len(shares[holder]) != SHARE_BYTES or value >= PRIME:
            raise Bad(f"silo {holder}'s share isn't 33 bytes below the prime")
        total += value * weight
    total %= PRIME
    if total >> 256:
        raise Bad("the shares don't open to a 32-byte secret")
    return total.to_bytes(32, "little")


def share_commitment(
    bound: Bound, dealer: int, holder: int, kind: str, share: bytes
) -> bytes:
    """What a dealer signs of one share. It hides it: a share is 257 uniform bits."""
    place = (bound.ctx, bound.key_set, u64(dealer), u64(holder), kind.encode())
    return digest("fedit/share/v1", *place, share)


def secret_commitment(ctx: bytes, silo: int, secret: bytes) -> bytes:
    """What a silo advertises of a secret: 32 uniform bytes, so it hides them."""
    return digest("fedit/commit/v1", ctx, u64(silo), secret)


def _uniform(randomness: Callable[[int], bytes]) -> int:
    # Uniform below the prime: 257 bits, drawn again while they pass it (half the time).
    while True:
        value = int.from_bytes(randomness(SHARE_BYTES), "little") & ((1 << 257) - 1)
        if value < PRIME:
            return value


@lru_cache(maxsize=256)
def _weights_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients at zero; they depend on public indices alone."""
    weights = []
    for i in holders:
        above = below = 1
        for j in holders:
            if j != i:
                above = above * (j + 1) % PRIME
                below = below * (j - i) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
