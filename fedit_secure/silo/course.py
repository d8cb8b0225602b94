"""What a daemon is about, as it tells its display: when it may stop without loss.

Draining finishes what has cost something: a tuning that is charged, until its update is on
the disk, and a release, until its round is over. Everything else is begun again for free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_RELEASING = frozenset({"advertise", "share", "mask", "agree", "reveal", "confirm"})
_BETWEEN = frozenset({"", "applied", "skipped", "undrawn", "refused", "ended"})
_LOOK_SECONDS = 0.1


class Course:
    """See the module; for one daemon. `on_event` is its display."""

    def __init__(self, on_event: Callable[[int, str], None]) -> None:
        self._on_event = on_event
        self._phase = ""
        self._charged = False
        self._draining = asyncio.Event()
        self.dialling: Callable[[], bool] = lambda: False

    def told(self, round: int, phase: str) -> None:
        """The daemon is in this phase now."""
        if phase in _BETWEEN or phase == "tuned":
            self._charged = False
        self._phase = phase
        self._on_event(round, phase)

    def drain(self) -> None:
        """No further round is taken."""
        self._draining.set()

    async def before_charge(self) -> None:
        """While it drains nothing is charged any more: waits for the end instead."""
        if self._draining.is_set():
            await asyncio.Event().wait()
        self._charged = True

    @property
    def between_rounds(self) -> bool:
        """Whether nothing of a round is under way."""
        return self._phase in _BETWEEN

    @property
    def may_stop(self) -> bool:
        """Whether nothing that has cost something would be cut off. A release that waits
        for a connection may wait for ever: it is left."""
        if self._charged:
            return False
        return self._phase not in _RELEASING or self.dialling()

    async def drained(self) -> None:
        """Returns once it drains and may stop."""
        await self._draining.wait()
        while not self.may_stop:  # noqa: ASYNC110 - phases are told
            await asyncio.sleep(_LOOK_SECONDS)
