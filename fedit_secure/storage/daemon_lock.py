"""One daemon per state folder, and which process it is.

The lock goes with the process, however that ends; the number in the file counts only while
the lock is held. Commands that change a state folder don't take this one: they are no
daemons, and nobody may signal them.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fedit_secure.errors import StorageError
from fedit_secure.federation.durable import make_folder

_NAME: Final = "daemon.lock"
_TRIES: Final = 20  # whoever asks for the number holds the lock for a moment


@contextmanager
def only_daemon(state: Path) -> Iterator[None]:
    """Be the daemon of a state folder meanwhile. Raises StorageError if there is one."""
    make_folder(state)
    path = state / _NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from error
    try:
        _take(descriptor, state)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise StorageError(f"{path} can't be written: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def running_daemon(state: Path) -> int | None:
    """The process id of a state folder's daemon; None if none is running.

    Raises StorageError if that can't be known.
    """
    path = state / _NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        else:
            return None
    finally:
        os.close(descriptor)
    if not said.isascii() or not said.isdigit():
        raise StorageError(f"{path} doesn't say which process holds it; try again")
    return int(said)


def _take(descriptor: int, state: Path) -> None:
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return
    raise StorageError(
        f"another daemon is running on {state}: two daemons can't share a state folder"
    )
