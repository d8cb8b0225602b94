"""Whole-file writes that survive a crash: a reader sees the old bytes or the new
ones.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedit_secure.errors import ConfigError, StorageError


def write_durably(
    path: Path, *data: bytes | memoryview, mode: int = 0o644, replace: bool = True
) -> None:
    """Writes the parts of `data` beside `path`, flushes them to the disk, then moves them
    into place.

    `mode` holds from the first byte on. Raises ConfigError if `replace` is False and
    `path` exists, StorageError if the disk refuses; `path` is then as it was.
    """
    with drafted(path, mode=mode, replace=replace) as file:
        file.writelines(data)


@contextmanager
def drafted(
    path: Path, *, mode: int = 0o644, replace: bool = True
) -> Iterator[BinaryIO]:
    """`write_durably` for what is too large to hold: a file to write into and seek in,
    which becomes `path` at the end of the block. If the block raises, nothing does.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                # A link, unlike a rename, fails if the name is taken.
                path.hardlink_to(draft)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already, and is not overwritten") from error
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from error


def append_durably(path: Path, data: bytes) -> None:
    """Appends `data` and flushes it to the disk. Raises StorageError if it refuses."""
    try:
        fresh = not path.exists()
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if fresh:  # its content is safe, and its name isn't
            sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from error


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Makes a folder, and those above it, which a power cut doesn't take away again with
    all that is in them.

    `mode` is the folder's own. Raises StorageError.
    """
    try:
        missing = [above for above in folder.parents if not above.exists()]
        for above in reversed(missing):
            above.mkdir(exist_ok=True)
            sync_folder(above.parent)
        folder.mkdir(mode, exist_ok=True)
        # Also where it was there: whoever made it may have died before this.
        sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(f"{folder} can't be made: {error.strerror}") from error


def require_room(folder: Path, needed: int) -> None:
    """Raises StorageError unless so many bytes are free on a folder's disk."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(f"{folder} can't be read: {error.strerror}") from error
    if free < needed:
        raise StorageError(
            f"the disk of {folder} has {free >> 20} MiB left, and {needed >> 20} MiB are "
            "needed: make room, and start again"
        )


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, what: str, *, limit: int = 1 << 36) -> bytes:
    """The bytes of `path`; raises ConfigError that says `what` couldn't be read, and
    why.
    """
    try:
        if path.stat().st_size > limit:
            most = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
            raise ConfigError(f"{what} {path} is larger than {most}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path} can't be read: {error.strerror}") from error
