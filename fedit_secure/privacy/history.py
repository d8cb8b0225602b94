"""A ledger's entries in their order, with an index: it only ever grows.

Ledgers are values, and a run's are prefixes of one another. So they share one history,
and each knows how much of it is its own. Going on from the newest costs one entry;
going on from an older one copies it first.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from fedit_secure.privacy.events import Event, Intent, Released
from fedit_secure.privacy.ledger_order import LedgerOrder

GENESIS = bytes(32)

Key = type[Event] | tuple[type[Event], str] | tuple[type[Event], str, int]
"""A kind; a kind and a charter; a kind, a charter and a round (charges only)."""


class History:
    """Entries as bytes, as events, and the chain's hash after each.

    What is here never changes: only the ends of the lists move. Any thread may extend.
    """

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.events: list[Event] = []
        self.hashes: list[bytes] = []
        self._order = LedgerOrder()
        self._places: defaultdict[Key, list[int]] = defaultdict(list)
        self._begun: set[str] = set()
        self._charters: list[int] = []  # where each charter's first intent stands
        self._growing = threading.Lock()

    def extended(self, length: int, event: Event) -> History:
        """A history of the first `length` entries and this one: itself, if these are all.

        Raises ValueError, in one sentence, if the event can't come there.
        """
        with self._growing:
            if length == len(self.entries):
                self.take(event.to_bytes(), event)
                return self
        fork = History()
        for entry, earlier in zip(
            self.entries[:length], self.events[:length], strict=True
        ):
            fork.take(entry, earlier)
        fork.take(event.to_bytes(), event)
        return fork

    def take(self, entry: bytes, event: Event) -> None:
        """Add an entry, or raise ValueError and stay as it was. For who holds it alone."""
        self._order.take(event)
        last = self.hashes[-1] if self.hashes else GENESIS
        place = len(self.entries)
        for key in self._keys(event):
            self._places[key].append(place)
        if isinstance(event, Intent) and event.charter not in self._begun:
            self._begun.add(event.charter)
            self._charters.append(place)
        self.events.append(event)
        self.hashes.append(hashlib.sha256(last + entry).digest())
        self.entries.append(entry)

    def count(self, key: Key, length: int) -> int:
        """How many of the first `length` entries are of this key."""
        places = self._places.get(key)
        return bisect_left(places, length) if places else 0

    def of(self, key: Key, length: int) -> Iterator[Event]:
        """Those of the first `length` events that are of this key, in order."""
        places = self._places.get(key, [])
        return (self.events[n] for n in places[: self.count(key, length)])

    def last(self, key: Key, length: int) -> Event | None:
        """The last of them, None if there is none."""
        count = self.count(key, length)
        return self.events[self._places[key][count - 1]] if count else None

    def charters(self, length: int) -> Iterator[Intent]:
        """The first intent of each charter in the first `length` entries, in order."""
        for place in self._charters[: bisect_left(self._charters, length)]:
            first = self.events[place]
            assert isinstance(first, Intent)
            yield first

    @staticmethod
    def _keys(event: Event) -> Iterator[Key]:
        yield type(event)
        if isinstance(event, Intent | Released):
            yield type(event), event.charter
        if isinstance(event, Intent):
            yield Intent, event.charter, event.round
