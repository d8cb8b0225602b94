"""One step of a silo's books at a time.

A step runs in a worker thread, where cancelling whoever waits for it doesn't reach: a
charge that is being computed when its round ends is still written. If another step began
meanwhile, both would go on from the same ledger, and the later one would find what it
didn't know of, which ends the daemon.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _HasTurn(Protocol):
    turn: threading.RLock


S = TypeVar("S", bound=_HasTurn)


def in_turn(step: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that begins once its object's `turn` is free, and has it until it ends."""

    @wraps(step)
    def taken(self: S, *given: P.args, **named: P.kwargs) -> T:
        with self.turn:
            return step(self, *given, **named)

    return taken
