"""Wait for the hours in which the silo's policy lets a round's tuning begin.

What others learn of it follows from the policy and the clock alone: no record is loaded
before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.charter import Schedule
from fedit_secure.federation.hours import Hours

_NAP_SECONDS = 60.0  # a clock may be set, a machine may sleep: look again


class StartingHours:
    """The policy's hours against the charter's patience; `clock` as `time.time`."""

    def __init__(
        self,
        hours: Hours | None,
        schedule: Schedule,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hours, self._clock = hours, clock
        self._patience = schedule.tune_deadline_seconds

    async def wait(self, tell: Callable[[str], None]) -> None:
        """Return in the hours; `tell` is told once if that takes waiting.

        Raises PolicyRefusal if they begin only after the round's tuning deadline: the
        others needn't wait for nothing then.
        """
        hours = self._hours
        if hours is None or not (seconds := hours.seconds_until(self._clock())):
            return
        if seconds >= self._patience:
            raise PolicyRefusal(
                f"this silo tunes {hours}, which begins in {_length(seconds)}, and the "
                f"charter's tuning deadline is {_length(self._patience)}"
            )
        tell("waiting for its hours")
        while seconds > 0:
            await asyncio.sleep(min(seconds, _NAP_SECONDS))
            seconds = hours.seconds_until(self._clock())


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
