"""`fedit silo drain` and `fedit aggregator drain`: a daemon ends and nothing is lost by it."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

WaitOption = Annotated[
    float | None,
    typer.Option(
        "--wait", help="Wait until it has ended, so many seconds at most.", min=0
    ),
]


def drain(state: Path, wait: float | None) -> dict[str, Any]:
    """Tell the daemon of a state folder to drain; `ended` is None where nobody waited.

    Raises ConfigError if the daemon is another account's, DeadlineExceeded if it hasn't
    ended in `wait` seconds, StorageError if the lock can't be read.
    """
    from fedit_secure.errors import ConfigError, DeadlineExceeded

    process = _daemon(state)
    if process is None:
        return {"state": state, "process": None, "ended": True}
    number, handle = process
    try:
        try:
            signal.pidfd_send_signal(handle, signal.SIGUSR1)
        except ProcessLookupError:
            pass  # it has ended by itself
        except PermissionError:
            raise ConfigError(
                f"the daemon of {state}, process {number}, is another account's"
            ) from None
        if wait is None:
            return {"state": state, "process": number, "ended": None}
        if not select.select([handle], [], [], wait)[0]:
            raise DeadlineExceeded(
                f"the daemon of {state}, process {number}, hasn't ended in {wait:g} "
                "seconds: it still drains; SIGTERM ends it at once"
            )
        return {"state": state, "process": number, "ended": True}
    finally:
        os.close(handle)


def _daemon(state: Path) -> tuple[int, int] | None:
    """The process and a handle on it, which stays its own if its number is used again."""
    from fedit_secure.storage.daemon_lock import running_daemon

    number = running_daemon(state)
    if number is None:
        return None
    try:
        handle = os.pidfd_open(number)
    except ProcessLookupError:
        return None
    if running_daemon(state) != number:
        os.close(handle)
        return None
    return number, handle
