"""JSON files that people read and keys sign: each has exactly one byte form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import read_file

_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_HEX32 = r"^[0-9a-f]{64}$"
# In these patterns (Rust's regex) `$` matches the very end only.
_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}$"
CLOCK_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
PATTERNS_IN_WORDS = {
    _NAME: "at most 63 lower-case letters, digits and dashes",
    _HEX32: "a digest of 64 hexadecimal digits",
    _ADDRESS: "an address like hub.example.org:7443",
    CLOCK_TIME: 'a time in quotes, like "20:00"',
}

# A DNS label, for it becomes part of a TLS name and of file names.
Name = Annotated[str, Field(pattern=_NAME)]
Hex32 = Annotated[str, Field(pattern=_HEX32)]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
# host:port, the host a DNS name, an IPv4 address or a bracketed IPv6 address.
Address = Annotated[str, Field(pattern=_ADDRESS)]
Line = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]


def absent_if_none() -> Any:
    """A field that a document has only where it says something.

    Added that way, it leaves the bytes of the documents before it as they were, and so
    their digests, approvals and signatures.
    """
    return Field(default=None, exclude_if=lambda value: value is None)


_EXCERPT = 400  # characters of what is wrong with a document


class Part(BaseModel):
    """Base of what a document is made of: frozen, and without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class Document(Part):
    """A file whose bytes must equal `to_bytes` of what they say.

    So a digest or a signature over the file and one over its content are the same
    thing, and no two readers of one file can take it for two different documents.
    """

    most_bytes: ClassVar[int] = 64 << 10

    def to_bytes(self) -> bytes:
        """Sorted keys, two spaces of indent, ASCII (nothing can look like something
        else).
        """
        return canonical(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes, origin: str) -> Self:
        """Reads and validates; raises ConfigError that names `origin` and the field."""
        if len(data) > cls.most_bytes:
            raise ConfigError(f"{origin} is larger than {cls.most_bytes >> 10} KiB")
        try:
            document = cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ConfigError(f"{origin}: {describe(first)}") from error
        if document.to_bytes() != data:
            raise ConfigError(
                f"{origin} isn't in its one canonical form, so it was changed after it "
                "was written; ask for it again"
            )
        return document

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file with `from_bytes`; raises ConfigError."""
        what = cls.__name__.lower()
        data = read_file(path, what, limit=cls.most_bytes)
        return cls.from_bytes(data, f"{what} {path}")


def canonical(content: dict[str, Any]) -> bytes:
    """The one JSON form of `content`."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    return text.encode("ascii") + b"\n"


def describe(error: ErrorDetails) -> str:
    """One of pydantic's errors as a short clause: which field, and what is wrong."""
    return brief(_described(error))


def brief(text: str) -> str:
    """At most 400 printable characters of a text that may quote a file."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= _EXCERPT else f"{shown[:_EXCERPT]}..."


def _described(error: ErrorDetails) -> str:
    if error["type"] == "json_invalid":
        return "this is not JSON"
    field = dotted(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"the field {field!r} is unknown"
    if error["type"] == "missing":
        return f"the field {field!r} is missing"
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"the field {field!r} {reason}" if field else reason


def dotted(location: Iterable[str | int]) -> str:
    """A field's place in a document, as in `roster.2.weight`."""
    return ".".join(str(part) for part in location)
