"""The one canonical encoding that everything hashed, signed or derived goes through.

Every field carries its length, so no two field lists share an encoding; every digest
starts with a label of its own, so no digest of one kind passes for another.
"""

from __future__ import annotations

import hashlib


def u64(n: int) -> bytes:
    """`n` as 8 little-endian bytes.

    Raises:
        ValueError: unless 0 <= n < 2^64.
    """
    if not 0 <= n < 1 << 64:
        raise ValueError(f"the integer {n} isn't in 0 <= n < 2^64")
    return n.to_bytes(8, "little")


def join(*fields: bytes | memoryview) -> bytes:
    """The fields, each behind its length in bytes as a `u64`."""
    parts: list[bytes | memoryview] = []
    for field in fields:
        parts += (u64(memoryview(field).nbytes), field)
    return b"".join(parts)


def digest(label: str, *fields: bytes | memoryview) -> bytes:
    """SHA-256 over `join(label, *fields)`: 32 bytes. Large buffers aren't copied."""
    sha = hashlib.sha256()
    for field in (label.encode(), *fields):
        sha.update(u64(memoryview(field).nbytes))
        sha.update(field)
    return sha.digest()


def context(
    charter: bytes,
    round: int,  # noqa: A002 - the protocol's own word
    attempt: int,
    state_digest: bytes,
    codec_digest: bytes,
) -> bytes:
    """ctx: the 32 bytes that tie a message to one attempt at one release.

    Args:
        charter: digest R of the charter.
        round: from 1.
        attempt: from 1, within the round.
        state_digest: digest of the global adapter and moments the round starts from.
        codec_digest: `SecAggParams.codec_digest()`.
    """
    numbers = (u64(round), u64(attempt))
    return digest("fedit/ctx/v1", charter, *numbers, state_digest, codec_digest)
