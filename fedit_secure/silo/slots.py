"""When a silo may say that work on its records has ended: at fixed times only.

How long loading and tuning take depends on the records. So nothing that follows them
leaves when it is ready, but at the next multiple of the charter's slot after the offer.
"""

from __future__ import annotations

import asyncio
import math
import time

from fedit_secure.federation.charter import Schedule


class Slots:
    """Multiples of the schedule's `ready_slot_seconds`, counted from now."""

    def __init__(self, schedule: Schedule) -> None:
        self._began, self._seconds = time.monotonic(), schedule.ready_slot_seconds

    async def next(self) -> None:
        """Wait for the next one."""
        elapsed = time.monotonic() - self._began
        slot = math.ceil(elapsed / self._seconds)
        await asyncio.sleep(slot * self._seconds - elapsed)
