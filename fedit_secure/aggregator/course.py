"""What the aggregator is about, as it tells its display: when it may stop without loss.

What silos have tuned stays with them, and is offered again. Only an attempt at a release is
worth finishing: until its certificate is with the silos, or it has ended without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fedit_secure.aggregator.events import Event

_LOOK_SECONDS = 0.1


class Course:
    """See the module; for one daemon. `on_event` is its display, and `attempt_is_open`
    says what the disk knows of it.
    """

    def __init__(
        self, on_event: Callable[[Event], None], attempt_is_open: Callable[[], bool]
    ) -> None:
        self._on_event, self._open = on_event, attempt_is_open
        self._phase = ""
        self._draining, self._stopped = asyncio.Event(), False
        self.stop: Callable[[], object] = lambda: None

    def told(self, event: Event) -> None:
        """Something to show. While it drains, a round that would begin ends it instead."""
        if not event.silo:
            self._phase = event.phase
        self._on_event(event)
        if self._draining.is_set() and self.may_stop:
            self._stop_once()

    def drain(self) -> None:
        """No further round begins."""
        self._draining.set()

    @property
    def may_stop(self) -> bool:
        """Whether no attempt is open, and none was just certified: the silos are told."""
        return self._phase != "certified" and not self._open()

    async def keep(self) -> None:
        """Stop once it drains and may; for where nothing is told."""
        await self._draining.wait()
        while not self.may_stop:  # noqa: ASYNC110 - phases are told
            await asyncio.sleep(_LOOK_SECONDS)
        self._stop_once()

    def _stop_once(self) -> None:
        # A second cancellation would cut short how the run ends: an adapter being written.
        if not self._stopped:
            self._stopped = True
            self.stop()
