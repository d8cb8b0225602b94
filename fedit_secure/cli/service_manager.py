"""What systemd hears of a daemon: the datagrams of sd_notify(3), and its watchdog's.

Without a NOTIFY_SOCKET nobody hears anything. A datagram that doesn't arrive ends
nothing: a manager that is gone is no reason to leave a round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fedit_secure.errors import ConfigError

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_PATIENCE_SECONDS = 1.0  # for a manager that doesn't read
_LONGEST = 300  # characters of a status


class ServiceManager:
    """Tells the manager behind `address` (a path, or @ and an abstract name; None: nobody).

    `watchdog_seconds`: how long it waits for a sign of life, None if it doesn't.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None) -> None:
        self._address = address
        self._watchdog = watchdog_seconds
        self._stopping = False

    @classmethod
    def of_environment(cls) -> ServiceManager:
        """As systemd says it in the environment, from which it is then taken: what this
        process starts is not the service.

        Raises ConfigError for a value that systemd doesn't set.
        """
        address = os.environ.pop("NOTIFY_SOCKET", None) or None
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        ours = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if address is not None and address[0] not in "/@":
            raise ConfigError(
                f"NOTIFY_SOCKET is {address[:80]!r}: neither a path nor an abstract name"
            )
        if microseconds and not (microseconds.isascii() and microseconds.isdigit()):
            raise ConfigError("WATCHDOG_USEC isn't a number of microseconds")
        seconds = int(microseconds or 0) / 1e6 if ours and address else 0.0
        return cls(address, seconds or None)

    def stage(self, stage: str) -> None:
        """The daemon is "ready" or "stopping"; it stops once."""
        if stage == "ready":
            self._tell("READY=1")
        elif not self._stopping:
            self._stopping = True
            self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        line = "".join(c if c.isprintable() else " " for c in text)
        self._tell(f"STATUS={line[:_LONGEST]}")

    async def watch(self, daemon: Coroutine[Any, Any, _T]) -> _T:
        """Run the daemon to its end, with signs of life from the loop that it runs in."""
        alive = asyncio.create_task(self._alive())
        try:
            return await daemon
        finally:
            self.stage("stopping")
            alive.cancel()
            with suppress(asyncio.CancelledError):
                await alive

    async def _alive(self) -> None:
        # A task of the daemon's own loop, and no thread: a loop that hangs says nothing.
        while self._watchdog is not None:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 2)

    def _tell(self, line: str) -> None:
        if self._address is None:
            return
        abstract = self._address.startswith("@")
        address = f"\0{self._address[1:]}" if abstract else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(_PATIENCE_SECONDS)
                out.sendto(line.encode(), address)
        except OSError as error:
            name = line.partition("=")[0]
            _log.warning("the service manager wasn't told %s: %s", name, error)
