"""The sizes that no message may exceed; every one follows from the charter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedit_secure.secagg.params import SecAggParams

MAX_FRAME: Final = 3 * 1024 * 1024  # bytes of a frame to a silo: a ShareSet of 100 fits
MAX_SILO_FRAME: Final = 512 * 1024  # bytes of a frame to the aggregator
CHUNK: Final = 1024 * 1024  # bytes of upload or blob in one message, at most
PIECE: Final = 128 * 1024  # as many as we put into one: a message is in memory whole


@dataclass(frozen=True, slots=True)
class Limits:
    """What the charter allows: `silos` in the roster, `length` coordinates in a sum,
    and exactly `payload_bytes` in a masked upload.
    """

    silos: int
    length: int
    payload_bytes: int

    @classmethod
    def of(cls, params: SecAggParams) -> Limits:
        """The limits of a charter's secure-aggregation parameters."""
        return cls(len(params.weights), params.length, params.payload_bytes)
