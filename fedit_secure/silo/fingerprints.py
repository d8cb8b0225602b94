"""What a silo keeps of its records to know them again, and tells nobody.

The commitment is in the ledger's first entry, and a changed one is entered as a new data
version. Prints stay in the journal: with them two populations are held against each
other. Both are keyed by the silo's identity: without that key nobody can test whether a
record is in them.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from fedit_secure.errors import StorageError
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import digest, u64
from fedit_secure.tuning.records import Record, record_bytes

_LABEL = "fedit/fingerprints/v1"
_OVERLAP = "fedit/overlap/v1"
_BYTES = 16  # of a print: two of a billion records are equal by chance once in 10^20
_HEADER = 1 + 32 + 8


def commitment(records: Iterable[Record], key: SigningKey) -> bytes:
    """32 bytes over the sorted keyed fingerprints of the records, in any order."""
    # Ed25519 signatures are deterministic, and only the key's holder can make this one.
    secret = key.sign(digest(_LABEL))
    prints = sorted(
        hmac.digest(secret, record_bytes(record), "sha256") for record in records
    )
    return digest(_LABEL, *prints)


@dataclass(frozen=True, slots=True)
class Prints:
    """Keyed prints, 16 bytes each, of every record and person that a population ever had.

    `key` is the public identity under which they were made: others can't be compared.
    `whole`: whether all of them are here, and not only those of the records as they are.
    """

    key: bytes
    records: frozenset[bytes] = field(repr=False)
    persons: frozenset[bytes] = field(repr=False)
    whole: bool = True

    @classmethod
    def of(cls, records: Sequence[Record], key: SigningKey) -> Self:
        """Of these records: of what they say, whomever they are about, and of whom that
        is, where a record says so.
        """
        secret = key.sign(digest(_OVERLAP))

        def made(kind: str, *said: str) -> bytes:
            text = json.dumps([kind, *said]).encode("ascii")
            return hmac.digest(secret, text, "sha256")[:_BYTES]

        return cls(
            key.public,
            frozenset(
                made("record", r.instruction, r.input, r.response) for r in records
            ),
            frozenset(
                made("person", r.person) for r in records if r.person is not None
            ),
        )

    def with_earlier(self, earlier: Prints | None) -> Prints:
        """All that the population ever had: its earlier records bore charges, too."""
        if earlier is None:
            return self
        if earlier.key != self.key:
            return Prints(self.key, self.records, self.persons, whole=False)
        records, persons = (
            self.records | earlier.records,
            self.persons | earlier.persons,
        )
        return Prints(self.key, records, persons, self.whole and earlier.whole)

    def to_bytes(self) -> bytes:
        """For the journal: equal prints have equal bytes."""
        return b"".join(
            (
                bytes([self.whole]),
                self.key,
                u64(len(self.records)),
                *sorted(self.records),
                *sorted(self.persons),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises StorageError for bytes that `to_bytes` never made."""
        start = data[:_HEADER]
        body = [data[n : n + _BYTES] for n in range(_HEADER, len(data), _BYTES)]
        count = int.from_bytes(start[-8:], "little")
        made = cls(
            start[1:33],
            frozenset(body[:count]),
            frozenset(body[count:]),
            start[:1] == b"\x01",
        )
        uneven = len(start) < _HEADER or (len(data) - _HEADER) % _BYTES
        if uneven or made.to_bytes() != data:
            raise StorageError("the stored prints of a population are damaged")
        return made
