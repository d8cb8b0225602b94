"""Serves the page in the daemon's own event loop, and never in the run's way.

An address that can't be had costs one warning and is tried again: a run that stops for
want of a page would be the worse fault.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from uvicorn import Config, Server

from fedit_secure.federation.page import PageConfig
from fedit_secure.watch.metrics import Metrics
from fedit_secure.watch.page import page_app
from fedit_secure.watch.snapshot import Snapshot

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 60.0
_MOST_CONNECTIONS = 64
_GOODBYE_SECONDS = 1


class _Guest(Server):
    """uvicorn, in a process whose signals are the daemon's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


@asynccontextmanager
async def serving(
    config: PageConfig, snapshot: Callable[[], Snapshot], metrics: Metrics
) -> AsyncIterator[None]:
    """The page is served until the block ends."""
    server = _Guest(
        Config(
            page_app(snapshot, metrics, config.hosts),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=_GOODBYE_SECONDS,
        )
    )
    task = asyncio.create_task(_serve(server, config.listen))
    try:
        yield
    finally:
        server.should_exit = True
        if not server.started:
            task.cancel()
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(3 * _GOODBYE_SECONDS):
                await task


async def _serve(server: Server, listen: str) -> None:
    try:
        await server.serve(sockets=[await _listening(listen)])
    except Exception:  # noqa: BLE001 - logged with its traceback
        # The run goes on without its page, whatever is wrong with that.
        _log.exception("the page has failed")


async def _listening(listen: str) -> socket.socket:
    warned = False
    while True:
        try:
            bound = _bound(listen)
        except (OSError, OverflowError) as error:  # the latter: no such port
            if not warned:
                why = getattr(error, "strerror", None) or error
                _log.warning(
                    "the page can't listen on %s yet: %s; the run goes on", listen, why
                )
            warned = True
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            host, port = listen.rpartition(":")[0], bound.getsockname()[1]
            _log.info("the page is at http://%s:%d/", host, port)
            return bound


def _bound(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound
