"""Caps on what charges of the last days cost, and when a silo's charges were made.

A convenience, and no part of any guarantee: the ledger has no dates, because nobody else
could check them. The times are kept beside it, in the silo's own journal, by a clock that
never goes back: a time is the latest that was ever seen.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedit_secure.errors import StorageError
from fedit_secure.federation.document import Part

if TYPE_CHECKING:
    from fedit_secure.privacy.ledger import Ledger

SECONDS_PER_DAY = 86_400


class Window(Part):
    """At most `epsilon` in any `days` days in a row, at the policy's delta."""

    days: Annotated[int, Field(ge=1, le=36_525)]
    epsilon: Annotated[float, Field(gt=0)]

    @property
    def covers(self) -> str:
        """Which charges count, as the end of a sentence."""
        return f"in any {self.days} days" if self.days > 1 else "in any one day"


@dataclass(frozen=True, slots=True)
class ChargeTimes:
    """When each of a ledger's charges was made, in whole seconds since 1970.

    `seen`: the latest time that this journal ever saw. `charges`: one time a charge, in
    the ledger's order; none is before its predecessor or after `seen`.
    """

    seen: int = 0
    charges: tuple[int, ...] = ()

    @classmethod
    def from_bytes(cls, note: bytes | None) -> ChargeTimes:
        """Of a journal's note, which may not be there yet.

        Raises StorageError for bytes that `to_bytes` never made.
        """
        if note is None:
            return cls()
        try:
            fields = json.loads(note)
            times = cls(fields["seen"], tuple(fields["charges"]))
            ordered = sorted(times.charges) == list(times.charges)
            if times.to_bytes() == note and ordered and times._whole():
                return times
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise StorageError("the noted times of charges are damaged")

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal times have equal bytes."""
        content = {"charges": self.charges, "seen": self.seen}
        return json.dumps(content, separators=(",", ":")).encode()

    def _whole(self) -> bool:
        times = (*self.charges, self.seen)
        return all(type(t) is int for t in times) and max(times) == self.seen

    def observed(self, now: float, ledger: Ledger | None) -> ChargeTimes:
        """As a look at the clock leaves them; `now` in seconds since 1970.

        A clock that went back counts as standing still. Charges whose time isn't known
        (made before times were kept, or restored from elsewhere) count as of this moment,
        so they stay in a window for longer than they had to, never for less.
        """
        known = 0 if ledger is None else len(ledger.intents())
        if len(self.charges) > known:
            raise StorageError(
                f"the journal has noted {len(self.charges)} charges, and its ledger has "
                f"{known}"
            )
        seen = max(self.seen, int(now))
        missing = known - len(self.charges)
        return ChargeTimes(seen, self.charges + (seen,) * missing)

    def charged(self) -> ChargeTimes:
        """With one more charge, at the latest time seen."""
        return ChargeTimes(self.seen, (*self.charges, self.seen))

    def within(self, days: int) -> int:
        """How many of the last charges are less than `days` days old."""
        before = self.seen - days * SECONDS_PER_DAY
        return len(self.charges) - bisect_right(self.charges, before)
