"""Random bytes and time, taken from chance: two runs can be compared to the byte.

Random bytes come from streams of their own for every party and purpose, and time is a
number that jumps to the next thing that is due.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import os
import selectors
import sys
from collections import Counter
from typing import Any

PARTY = contextvars.ContextVar("PARTY", default="")  # whose task this is


class Clock(selectors.DefaultSelector):
    """Jumps to the next moment at which something is due, instead of waiting for it."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """What is ready; nothing ever is but timers."""
        assert timeout is not None, "everybody waits for somebody else"
        self.now += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """What is due for several parties at the same time comes in the roster's order.

    It would otherwise come in an order that the last bit of a float decides.
    """

    def __init__(self, clock: Clock, parties: list[str]) -> None:
        super().__init__(clock)
        self._parties = parties

    def call_at(self, when: float, *args: Any, **named: Any) -> asyncio.TimerHandle:
        """Whole milliseconds, and a microsecond for each party before this one."""
        party = PARTY.get()
        place = 1 + self._parties.index(party) if party in self._parties else 0
        return super().call_at(round(when, 3) + 1e-6 * place, *args, **named)


class Chance:
    """Random bytes that are the same in every run: a stream for each party and purpose."""

    def __init__(self) -> None:
        self._real, self._drawn = os.urandom, Counter[tuple[str, str]]()

    def __call__(self, size: int) -> bytes:
        purpose = sys._getframe(1).f_globals["__name__"]
        if not purpose.startswith("fedit_secure.") or not PARTY.get():
            return self._real(size)
        return self.bytes(purpose, size)

    def bytes(self, purpose: str, size: int) -> bytes:
        """The next bytes of this party's stream for a purpose."""
        where = (PARTY.get(), purpose)
        self._drawn[where] += 1
        name = f"{where[0]}/{where[1]}/{self._drawn[where]}"
        return hashlib.shake_256(name.encode()).digest(size)
