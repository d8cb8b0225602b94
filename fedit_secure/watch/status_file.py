"""The daemon's last snapshot in its state folder, for commands on the same machine.

It is for looking at only: nothing is ever decided by it, so it is replaced whole but not
flushed to the disk, and an error in writing it is a warning.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedit_secure.errors import StorageError
from fedit_secure.watch.snapshot import Snapshot, from_json, to_json

BEAT_SECONDS = 10.0  # at least so often a living daemon writes it
_SILENT_SECONDS = 60.0  # a busy machine may be late; a dead process stays silent


def status_path(state: Path) -> Path:
    """Where it lies."""
    return state / "status.json"


def write_status(state: Path, snapshot: Snapshot) -> None:
    """Replace it, readable by this account alone. Raises StorageError."""
    path = status_path(state)
    draft = path.with_name(".status.json.new")  # one daemon a folder, one writer a time
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(to_json(snapshot) + b"\n")
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from error


def read_status(state: Path) -> Snapshot | None:
    """The last one; None where no daemon has written any. Raises StorageError."""
    path = status_path(state)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return from_json(data, str(path))


def is_alive(snapshot: Snapshot, now: float) -> bool:
    """Whether its daemon says that it runs, and has said so lately (`now`: Unix time)."""
    daemon = snapshot.daemon
    return daemon.state == "running" and now - daemon.at < _SILENT_SECONDS
