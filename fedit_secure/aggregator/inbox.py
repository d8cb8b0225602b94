"""The aggregator's messages of one attempt, and its patience: time is a message too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.wire.uploads import Uploads

SLOWEST_UPLOAD: Final = 64 * 1024  # bytes a second; a slower silo isn't waited for


def sender_of(message: object) -> int | None:
    """The silo that a message says it is from."""
    if isinstance(message, m.ShareBundle):
        return message.statement.dealer
    if isinstance(message, m.MaskedUpload):
        return message.header.silo
    return getattr(message, "silo", None)


class Inbox(asyncio.Queue[tuple[int, m.Message]]):
    """(silo, message) in order; (-1, Deadline) after `seconds` in which nothing moved.

    Deadlines run on progress: a chunk of an upload postpones them as a message does. But
    no upload of `payload_bytes` may take longer than at the slowest rate, so that nobody
    holds the others up by trickling. `uploads` takes them while the attempt is masking,
    and only then; without it (links in memory) they come as messages.
    """

    def __init__(
        self, seconds: float, payload_bytes: int, uploads: Uploads | None
    ) -> None:
        super().__init__()
        self._seconds = seconds
        self._longest = payload_bytes / SLOWEST_UPLOAD
        self._uploads = uploads
        self._latest: float | None = None  # until when chunks count as progress

    def fill(self, early: Mapping[tuple[int, type], object]) -> None:
        """What silos said before the attempt that a dead process left was taken up again:
        they say it when they connect, and the first do so before there are enough."""
        for (silo, _), message in early.items():
            self.put_nowait((silo, message))  # type: ignore[arg-type]

    def enter(self, state: s.AggregatorState) -> None:
        """The attempt is in this state now."""
        if not isinstance(state, s.Masking):
            self.close()
            return
        if self._latest is None:
            self._latest = time.monotonic() + self._longest
        if self._uploads is not None:
            self._uploads.expect(state.session.ctx)

    def close(self) -> None:
        """No upload is taken any more, and what is left of broken ones is deleted."""
        if self._uploads is not None:
            self._uploads.expect(None)

    def _moved(self) -> float:
        if self._uploads is None or self._latest is None:
            return 0.0
        return min(self._uploads.moved, self._latest)

    async def get(self) -> tuple[int, m.Message]:
        """The next message, or the deadline."""
        asked = time.monotonic()
        while True:
            left = max(asked, self._moved()) + self._seconds - time.monotonic()
            if left <= 0:
                return -1, m.Deadline()
            try:
                async with asyncio.timeout(left):
                    return await super().get()
            except TimeoutError:
                continue  # unless an upload has moved meanwhile, this was the last turn
