"""Disk work for one silo, done in the order in which the silo spoke."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Turns:
    """One piece of work at a time for each silo, in worker threads; silos side by side.

    A link's end doesn't end its work, for a thread can't be called back: the work of the
    silo's next link waits for it. A lock that the threads take themselves, as a silo's
    books do (`silo.turns`), would keep no order among those that wait.
    """

    def __init__(self) -> None:
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def take(self, silo: int, work: Callable[[], T]) -> T:
        """The result of `work`, begun when all that was given before it for the same
        silo (roster index) has ended. Raises what `work` raises.
        """

        async def turn() -> T:
            async with self._locks[silo]:  # the lock is fair: first come, first served
                return await asyncio.to_thread(work)

        return await asyncio.shield(turn())
