"""The base of every ledger event: its one encoding, and the types of its fields."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

# In these patterns (Rust's regex) `$` matches the very end only.
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Text = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
]
Round = Annotated[int, Field(ge=1, lt=2**53)]
Count = Annotated[int, Field(ge=1, lt=2**53)]
Positive = Annotated[float, Field(gt=0)]
Order = Annotated[float, Field(gt=1)]


class Part(BaseModel):
    """What an event is made of: frozen, closed, and strict about types."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False
    )


class Entry(Part):
    """Digests, keys and signatures are lowercase hex."""

    def to_bytes(self) -> bytes:
        """The entry: one canonical JSON object, without a line end."""
        return _canonical(self.model_dump(mode="json"))

    def unsigned_bytes(self) -> bytes:
        """The same without its field `signature`: what that signature covers."""
        return _canonical(self.model_dump(mode="json", exclude={"signature"}))


def _canonical(document: object) -> bytes:
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode("ascii")
