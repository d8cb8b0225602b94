"""When charges were made, as the silo's own journal notes it; see `federation/windows.py`.

Nothing of it leaves the silo: it is no part of the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.storage.journal import Journal


class ChargeClock:
    """One population's times; `clock` gives seconds since 1970."""

    def __init__(
        self, journal: Journal, population: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._journal, self._clock = journal, clock
        self._key = f"charge-times/{population}"

    def times(self, ledger: Ledger | None) -> ChargeTimes:
        """As they stand now, by the clock or by the latest time ever noted."""
        noted = ChargeTimes.from_bytes(self._journal.note(self._key))
        return noted.observed(self._clock(), ledger)

    def note(self, times: ChargeTimes) -> Mapping[str, bytes]:
        """What to commit, in one transaction with the charge that it is about."""
        return {self._key: times.to_bytes()}
