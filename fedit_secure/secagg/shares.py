"""Shamir's sharing of 32-byte secrets (Shamir 1979), and commitments to shares."""

from collections.abc import Iterable, Mapping
from functools import lru_cache, reduce
from math import prod

from fedit_secure.secagg.keys import Bad, Rand
from fedit_secure.secagg.transcript import Bound, Silos, digest, u64

PRIME = 2**256 + 297  # the least prime above every 32-byte secret
SHARE_BYTES = 33


def split(secret: bytes, t: int, holders: Silos, rand: Rand) -> dict[int, bytes]:
    """Share a secret: any t shares open it, fewer say nothing about it.

    Args:
        secret: 32 bytes.
        t: at least 1.
        holders: distinct roster indices, at least t; holder v gets the value at v + 1.
        rand: called with a byte count, returns that many fresh uniform bytes.

    Returns:
        A 33-byte little-endian share per holder.
    """
    if len(secret) != 32:
        raise ValueError(f"a shared secret has 32 bytes, not {len(secret)}")
    if not 1 <= t <= len(set(holders)) == len(holders) or min(holders) < 0:
        raise ValueError(f"{t} shares can't open a secret held by {holders}")
    coefficients = [_uniform(rand) for _ in range(t - 1)]
    coefficients.append(int.from_bytes(secret, "little"))

    def value(x: int) -> int:  # Horner's rule, the secret last
        return reduce(lambda above, c: (above * x + c) % PRIME, coefficients)

    return {v: value(v + 1).to_bytes(SHARE_BYTES, "little") for v in holders}


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


def share_commitment(bound: Bound, u: int, v: int, kind: str, share: bytes) -> bytes:
    """What dealer u signs of one share ("self" or "key") of holder v. It hides it: a share
    is 257 uniform bits."""
    place = (bound.ctx, bound.key_set, u64(u), u64(v), kind.encode())
    return digest("fedit/share/v1", *place, share)


def secret_commitment(ctx: bytes, silo: int, secret: bytes) -> bytes:
    """What a silo advertises of a secret: 32 uniform bytes, so it hides them."""
    return digest("fedit/commit/v1", ctx, u64(silo), secret)


def due(me: int, u2: Iterable[int], u3: Silos) -> list[list[int]]:
    """THE decision, one answer per peer: its self-mask seed's share if its upload is in
    the sum (in U3, a part of U2; the own one too), else its mask key's (never the own).
    Both would open it."""
    dropped = (peer for peer in u2 if peer not in u3 and peer != me)
    return [sorted(u3), sorted(dropped)]


def _uniform(rand: Rand) -> int:
    # Uniform below the prime: 257 bits, drawn again while they pass it (half the time).
    while True:
        value = int.from_bytes(rand(SHARE_BYTES), "little") & ((1 << 257) - 1)
        if value < PRIME:
            return value


@lru_cache(maxsize=256)
def _weights_at_zero(holders: Silos) -> tuple[int, ...]:
    """Lagrange's coefficients at zero; they depend on public indices alone."""

    def weight(i: int) -> int:
        others = [j for j in holders if j != i]
        below = pow(prod(j - i for j in others), -1, PRIME)
        return prod(j + 1 for j in others) * below % PRIME

    return tuple(map(weight, holders))
