"""A bounded queue that can be closed: what a link's frames wait in."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from fedit_secure.errors import ConnectError, FeditError

T = TypeVar("T")


class Mailbox(Generic[T]):
    """At most `capacity` items; after `close`, what is in it can still be taken.

    For one event loop. `take` is safe to cancel: an item is removed only by a `take`
    that returns it.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._reason: str | None = None
        self._error: type[FeditError] = ConnectError
        self._changed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be put."""
        return self._reason is not None

    async def put(self, item: T) -> None:
        """Wait for room, then add `item`; raises the close's error once closed."""
        while not self.closed and len(self._items) >= self._capacity:
            await self._changed.wait()
        if self._reason is not None:
            raise self._error(self._reason)
        self._items.append(item)
        self._wake()

    async def take(self) -> T:
        """Wait for an item and remove it; raises the close's error when empty."""
        while not self._items:
            if self._reason is not None:
                raise self._error(self._reason)
            await self._changed.wait()
        item = self._items.popleft()
        self._wake()
        return item

    def close(self, reason: str, error: type[FeditError] = ConnectError) -> None:
        """Let no more in. The first close decides what `put` and `take` raise."""
        if self._reason is None:
            self._reason, self._error = reason, error
            self._wake()

    def finish(self, item: T, reason: str) -> None:
        """Add a last item, whatever the capacity, and close."""
        if self._reason is None:
            self._items.append(item)
            self.close(reason)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
