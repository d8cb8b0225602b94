"""Keeps the status file up to date beside the daemon's work, and never in its way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedit_secure.errors import FeditError
from fedit_secure.watch.snapshot import Snapshot
from fedit_secure.watch.status_file import BEAT_SECONDS, write_status

_log = logging.getLogger(__name__)
_PAUSE_SECONDS = 1.0  # between two files: a burst of events is one


class Publisher:
    """`async with` writes the file after every `changed()`, and once more at the end.

    `refresh` may take its time, in a worker thread, before each `snapshot`. What either
    raises costs a warning, once, and the file; never the run.
    """

    def __init__(
        self,
        state: Path,
        snapshot: Callable[[], Snapshot],
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._state, self._snapshot, self._refresh = state, snapshot, refresh
        self._changed, self._over = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._warned = False

    def changed(self) -> None:
        """There is something new to show."""
        self._changed.set()

    async def __aenter__(self) -> Publisher:
        await self._write()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled: a file that is being written would go on beside the last one.
        assert self._task is not None
        self._over.set()
        self._changed.set()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._write()

    async def _run(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            await self._write()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._over.wait()

    async def _write(self) -> None:
        try:
            await asyncio.to_thread(self._refresh)
            await asyncio.to_thread(write_status, self._state, self._snapshot())
        except Exception as error:  # noqa: BLE001 - logged just below
            # Whatever is wrong with a display, the run goes on.
            if not self._warned:
                bug = not isinstance(error, FeditError)
                _log.warning("how things stand can't be shown: %s", error, exc_info=bug)
            self._warned = True
