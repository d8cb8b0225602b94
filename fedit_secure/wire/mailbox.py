"""A bounded queue that can be closed: what a link's frames wait in."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from fedit_secure.errors import ConnectError

T = TypeVar("T")


class Mailbox(Generic[T]):
    """At most `capacity` items; after `close`, what is in it can still be taken.

    `take` is safe to cancel: an item is removed only by a `take` that returns it.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._closed: str | None = None
        self._changed = asyncio.Condition()

    @property
    def closed(self) -> bool:
        """Whether nothing more can be put."""
        return self._closed is not None

    async def put(self, item: T) -> None:
        """Wait for room, then add `item`; ConnectError once the mailbox is closed."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.closed or len(self._items) < self._capacity
            )
            if self._closed is not None:
                raise ConnectError(self._closed)
            self._items.append(item)
            self._changed.notify_all()

    async def take(self) -> T:
        """Wait for an item and remove it; ConnectError when closed and empty."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or bool(self._items))
            if not self._items:
                raise ConnectError(self._closed or "the link is closed")
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    async def close(self, reason: str) -> None:
        """Let no more in; the first `reason` is the one that `take` and `put` give."""
        async with self._changed:
            if self._closed is None:
                self._closed = reason
            self._changed.notify_all()
