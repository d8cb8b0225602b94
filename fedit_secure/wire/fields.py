"""The kinds of field a message has: how each goes into protobuf, and what it may hold.

`take` is where bytes from a peer become values: it returns a value that keeps the rule
of its kind, or raises ValueError. Nothing that comes out is longer than the charter
allows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fedit_secure.wire.frames import MAX_TEXT, PHASES
from fedit_secure.wire.limits import Limits

Protobuf: TypeAlias = Any  # a generated message, or what one of its fields holds
LARGEST = 1 << 53


class Field(Protocol):
    """One kind of field."""

    def put(self, message: Protobuf, name: str, value: Any) -> None:
        """Set field `name` of a protobuf message."""

    def take(self, value: Protobuf, limits: Limits) -> Any:
        """The checked value of a field; ValueError if it breaks its kind's rule."""


class _Scalar:
    def put(self, message: Protobuf, name: str, value: Any) -> None:
        setattr(message, name, value)

    def take(self, value: Protobuf, limits: Limits) -> Any:
        """See `Field`."""
        raise NotImplementedError

    def take_all(self, values: Iterable[Any], limits: Limits) -> tuple[Any, ...]:
        """The checked values of a repeated field."""
        return tuple(self.take(value, limits) for value in values)


@dataclass(frozen=True, slots=True)
class Whole(_Scalar):
    """An integer from `least` to `most`."""

    least: int = 0
    most: int = LARGEST

    def take(self, value: Protobuf, limits: Limits) -> int:
        """The integer."""
        if not self.least <= value <= self.most:
            raise ValueError(f"{value} isn't in {self.least}..{self.most}")
        return int(value)


class SiloIndex(_Scalar):
    """A roster index."""

    def take(self, value: Protobuf, limits: Limits) -> int:
        """The index."""
        if value >= limits.silos:
            raise ValueError(f"{value} isn't in the roster of {limits.silos}")
        return int(value)

    def take_all(self, values: Iterable[Any], limits: Limits) -> tuple[int, ...]:
        """All at once: the statements of a hundred dealers name 10,000 holders."""
        if max(values, default=0) < limits.silos:
            return tuple(values)
        return _Scalar.take_all(self, values, limits)


@dataclass(frozen=True, slots=True)
class Exactly(_Scalar):
    """Bytes of one size, or (optional) none at all."""

    size: int
    optional: bool = False

    def take(self, value: Protobuf, limits: Limits) -> bytes:
        """The bytes."""
        if len(value) != self.size and (value or not self.optional):
            raise ValueError(f"{len(value)} bytes, not {self.size}")
        return bytes(value)

    def take_all(self, values: Iterable[Any], limits: Limits) -> tuple[bytes, ...]:
        """All at once: the statements of a hundred dealers have 30,000 hashes."""
        taken = tuple(values)
        if {*map(len, taken)} <= {self.size}:
            return taken
        return _Scalar.take_all(self, taken, limits)


@dataclass(frozen=True, slots=True)
class AtMost(_Scalar):
    """Bytes of any size up to one."""

    size: int

    def take(self, value: Protobuf, limits: Limits) -> bytes:
        """The bytes."""
        if len(value) > self.size:
            raise ValueError(f"{len(value)} bytes, above {self.size}")
        return bytes(value)


class Text(_Scalar):
    """At most 500 printable characters."""

    def take(self, value: Protobuf, limits: Limits) -> str:
        """The text."""
        text = str(value)
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} characters, above {MAX_TEXT}")
        if not text.isprintable():
            raise ValueError("unprintable characters")
        return text


class PhaseName:
    """One of `frames.PHASES`, as an enumerator from 1 on."""

    def put(self, message: Protobuf, name: str, value: str) -> None:
        """Set the enumerator."""
        setattr(message, name, PHASES.index(value) + 1)

    def take(self, value: Protobuf, limits: Limits) -> str:
        """The phase's name."""
        if not 1 <= value <= len(PHASES):
            raise ValueError(f"unknown phase {value}")
        return PHASES[value - 1]


@dataclass(frozen=True, slots=True)
class Record:
    """A message inside a message: a dataclass with these fields, named alike."""

    of: type
    fields: Mapping[str, Field]
    optional: bool = False

    def put(self, message: Protobuf, name: str, value: Any) -> None:
        """Fill the sub-message; None leaves an optional one out."""
        if value is not None or not self.optional:
            part = getattr(message, name)
            part.SetInParent()
            self.fill(part, value)

    def fill(self, message: Protobuf, value: Any) -> None:
        """Fill a protobuf message from a dataclass."""
        for name, field in self.fields.items():
            field.put(message, name, getattr(value, name))

    def take(self, value: Protobuf, limits: Limits) -> Any:
        """The dataclass that a protobuf message stands for."""
        kept: dict[str, Any] = {}
        for name, field in self.fields.items():
            if isinstance(field, Record) and not value.HasField(name):
                if not field.optional:
                    raise ValueError(f"{name}: missing")
                kept[name] = None
                continue
            try:
                kept[name] = field.take(getattr(value, name), limits)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return self.of(**kept)

    def maybe(self) -> Record:
        """The same message, where it may be absent."""
        return dataclasses.replace(self, optional=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """A (roster index, bytes) tuple, as a message of two fields."""

    second: str
    kind: Field

    def fill(self, message: Protobuf, value: tuple[int, bytes]) -> None:
        """Fill a protobuf message from a tuple."""
        message.silo, blob = value
        setattr(message, self.second, blob)

    def take(self, value: Protobuf, limits: Limits) -> tuple[int, bytes]:
        """The tuple."""
        return (
            SiloIndex().take(value.silo, limits),
            self.kind.take(getattr(value, self.second), limits),
        )


@dataclass(frozen=True, slots=True)
class Many:
    """A tuple of at most `most` values of one kind; None stands for one per silo."""

    kind: Any  # a Record or Pair, or a scalar Field
    most: int | None = None

    def put(self, message: Protobuf, name: str, value: Iterable[Any]) -> None:
        """Fill the repeated field."""
        items = getattr(message, name)
        if isinstance(self.kind, Record | Pair):
            for item in value:
                self.kind.fill(items.add(), item)
        else:
            items.extend(value)

    def take(self, value: Protobuf, limits: Limits) -> tuple[Any, ...]:
        """The tuple; its length is checked before any item is looked at."""
        most = limits.silos if self.most is None else self.most
        if len(value) > most:
            raise ValueError(f"{len(value)} entries, above {most}")
        if isinstance(self.kind, _Scalar):
            return self.kind.take_all(value, limits)
        return tuple(self.kind.take(item, limits) for item in value)
