"""What a daemon starts to be seen: its status file always, its page where one is asked for.

The web framework is imported only for a page: a daemon without one stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedit_secure.errors import ConfigError, FeditError
from fedit_secure.federation.page import PageConfig
from fedit_secure.watch.publisher import Publisher
from fedit_secure.watch.snapshot import Snapshot, State

if TYPE_CHECKING:
    from fedit_secure.watch.metrics import Metrics

_PACKAGES = ("jinja2", "prometheus_client", "starlette", "uvicorn")


class Stands(Protocol):
    """A role that can say where it stands: `aggregator.standing`, `silo.standing`."""

    def refresh(self) -> None:
        """Read what takes time. Called in a worker thread."""

    def snapshot(self) -> Snapshot:
        """Where it stands now."""

    def finish(self, state: State, why: str = "") -> None:
        """The process ends like this."""


class Watching:
    """Raises ConfigError if there is a page to show and the extra for it isn't installed."""

    def __init__(self, state: Path, page: PageConfig | None) -> None:
        self._state, self._page = state, page
        self._publisher: Publisher | None = None
        self._metrics: Metrics | None = None
        if page is None:
            return
        for package in _PACKAGES:
            if find_spec(package) is None:
                raise ConfigError(
                    f"the key 'page' needs {package}; run pip install "
                    "'fedit-secure[web]', or leave the key out"
                )
        from fedit_secure.watch.metrics import Metrics

        self._metrics = Metrics()

    def changed(self) -> None:
        """There is something new to show."""
        if self._publisher is not None:
            self._publisher.changed()

    def on_phase(self, phase: str, seconds: float) -> None:
        """A phase has ended, after so many seconds."""
        if self._metrics is not None:
            self._metrics.phase_ended(phase, seconds)

    @asynccontextmanager
    async def show(self, daemon: Stands) -> AsyncIterator[None]:
        """Show it until the block ends, and then how it ended."""
        self._publisher = Publisher(self._state, daemon.snapshot, daemon.refresh)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._publisher)
            if self._page is not None and self._metrics is not None:
                from fedit_secure.watch.server import serving

                shown = serving(self._page, daemon.snapshot, self._metrics)
                await stack.enter_async_context(shown)
            try:
                yield
            except (asyncio.CancelledError, SystemExit):
                daemon.finish("stopped")
                raise
            except FeditError as error:
                daemon.finish("failed", str(error))
                raise
            except BaseException:
                daemon.finish("failed", "the log says why")
                raise
            else:
                daemon.finish("ended")
