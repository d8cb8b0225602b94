"""Values, and the one canonical encoding that all that is hashed or signed goes through.

Every field carries its length, so no two field lists share an encoding; every digest
starts with a label of its own, so no digest of one kind passes for another.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, dataclass_transform

Blob = bytes | memoryview
Silos = tuple[int, ...]  # roster indices


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class _Frozen(type):
    def __new__(mcs, name: str, bases: Any, space: dict[str, Any], **named: str) -> Any:
        made = super().__new__(mcs, name, bases, {**named, **space})
        if "__slots__" in space:  # the decorator makes the class again, with its slots
            return made
        return dataclass(frozen=True, slots=True)(made)


class Value(metaclass=_Frozen):
    """Every subclass is a frozen, slotted dataclass, without saying so each time."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


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


def join(*parts: Blob) -> bytes:
    """The parts, each behind its length in bytes as a `u64`."""
    return b"".join(x for part in parts for x in (u64(memoryview(part).nbytes), part))


def digest(label: str, *parts: Blob) -> bytes:
    """SHA-256 over `join(label, *parts)`: 32 bytes. Large buffers aren't copied."""
    sha = hashlib.sha256()
    for part in (label.encode(), *parts):
        sha.update(u64(memoryview(part).nbytes))
        sha.update(part)
    return sha.digest()


_PLAIN: dict[type, Callable[[Any], bytes]] = {bytes: bytes, str: str.encode, int: u64}


def encode(value: Any) -> bytes:
    """The canonical bytes of one field: bytes as they are, text in UTF-8, integers as
    `u64`, tuples and dataclasses as the `join` of what they hold, signatures left out."""
    if type(value) in _PLAIN:
        return _PLAIN[type(value)](value)
    if isinstance(value, tuple):
        return join(*map(encode, value))
    return _encoded(value)


@lru_cache(maxsize=512)
def _encoded(value: "Value") -> bytes:
    # A statement is part of what every holder is shown, n sets of n of them. Messages that
    # are equal hold the same bytes, texts and integers, so they encode alike.
    return join(*map(encode, _covered(value)))


class Signed(Value):
    """A message whose signature covers its label and every field but signatures."""

    label: ClassVar[str]
    signature: bytes = field(default=b"", kw_only=True)

    def signed_digest(self) -> bytes:
        return digest(self.label, *map(encode, _covered(self)))


def _covered(value: Any) -> list[Any]:
    return [getattr(value, f.name) for f in fields(value) if f.name != "signature"]
