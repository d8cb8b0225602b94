"""The operator's signature under a change of the lifetime cap: who can raise it, and how
anybody checks that it was they.

A cap that anybody with access to a disk could raise would cap nothing. So the entry is
signed by the silo's identity key, and the signature covers the ledger before it: it holds
at one place of one ledger, and nowhere else. Nothing here writes or opens a ledger, so that
a verifier can take it without trusting what does: for that see `signed_ledger.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedit_secure.privacy.events import CapChanged, Event, KeyRotated, Opened
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import digest, u64


@dataclass(frozen=True, slots=True)
class CapChange:
    """What a signature covers.

    `entry`: the number of the entry that changes the cap, counted from 1. `before`: the
    chain's hash after the entry before it, 32 bytes. `old` and `new`: the lifetime cap's
    epsilon before and after; `old` is inf where there was none.
    """

    population: str
    entry: int
    before: bytes
    old: float
    new: float
    reason: str

    def digest(self) -> bytes:
        """The 32 bytes that are signed. An epsilon is its 8 bytes as a little-endian
        IEEE 754 double; nothing where there was no cap.
        """
        return digest(
            "fedit/cap/v1",
            self.population.encode(),
            u64(self.entry),
            self.before,
            _epsilon(self.old),
            _epsilon(self.new),
            self.reason.encode(),
        )

    def signed(self, key: SigningKey) -> CapChanged:
        """The entry. Raises pydantic's ValidationError for a cap or a reason that none
        can hold.
        """
        signature = key.sign(self.digest()).hex()
        return CapChanged(cap_epsilon=self.new, reason=self.reason, signature=signature)


def cap_changes(
    events: Sequence[Event], hashes: Sequence[bytes]
) -> Iterator[tuple[CapChange, bytes, bytes]]:
    """Each change of a ledger's cap, with its signature and the key that should have made
    it: the one that the ledger was opened with, or the last that it rotated to.

    `hashes`: the chain's hash after each entry, 32 bytes each. Nothing is verified here,
    and a rotation is taken at its word: check that one first.
    """
    population, key, cap = "", b"", math.inf
    for number, (event, before) in enumerate(
        zip(events, (bytes(32), *hashes), strict=False), 1
    ):
        if isinstance(event, Opened):
            population, key = event.population, bytes.fromhex(event.identity)
            cap = math.inf if event.cap_epsilon is None else event.cap_epsilon
        elif isinstance(event, KeyRotated):
            key = bytes.fromhex(event.new)
        elif isinstance(event, CapChanged):
            new, reason = event.cap_epsilon, event.reason
            change = CapChange(population, number, before, cap, new, reason)
            yield change, bytes.fromhex(event.signature), key
            cap = new


def _epsilon(value: float) -> bytes:
    return b"" if value == math.inf else struct.pack("<d", value)
