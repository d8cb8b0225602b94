"""The one canonical encoding that everything hashed, signed or derived goes through.

Every field carries its length, so no two field lists share an encoding; every digest
starts with a label of its own, so no digest of one kind passes for another.
"""

from __future__ import annotations

import hashlib
from dataclasses import field, fields
from typing import Any, ClassVar, NamedTuple

from fedit_secure.secagg.value import Value


class Bound(NamedTuple):
    """What every key, seed and commitment of an attempt is tied to: the charter R, the
    context ctx, the key set K and, once it's known, H(U2)."""

    charter: bytes
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes = b""


def u64(n: int) -> bytes:
    """`n` as 8 little-endian bytes.

    Raises:
        ValueError: unless 0 <= n < 2^64.
    """
    if not 0 <= n < 1 << 64:
        raise ValueError(f"the integer {n} isn't in 0 <= n < 2^64")
    return n.to_bytes(8, "little")


def join(*parts: bytes | memoryview) -> bytes:
    """The parts, each behind its length in bytes as a `u64`."""
    return b"".join(x for part in parts for x in (u64(memoryview(part).nbytes), part))


def digest(label: str, *parts: bytes | memoryview) -> bytes:
    """SHA-256 over `join(label, *parts)`: 32 bytes. Large buffers aren't copied."""
    sha = hashlib.sha256()
    for part in (label.encode(), *parts):
        sha.update(u64(memoryview(part).nbytes))
        sha.update(part)
    return sha.digest()


def context(
    charter: bytes, round: int, attempt: int, state_digest: bytes, codec_digest: bytes
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


def encode(value: Any) -> bytes:
    """The canonical bytes of one field: bytes as they are, text in UTF-8, integers as
    `u64`, tuples and dataclasses as the `join` of what they hold, signatures left out."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return u64(value)
    return join(*map(encode, value if isinstance(value, tuple) else _covered(value)))


class Signed(Value):
    """A message whose signature covers its label and every field but signatures."""

    label: ClassVar[str]
    signature: bytes = field(default=b"", kw_only=True)

    def signed_digest(self) -> bytes:
        return digest(self.label, *map(encode, _covered(self)))


def _covered(value: Any) -> list[Any]:
    return [getattr(value, f.name) for f in fields(value) if f.name != "signature"]
