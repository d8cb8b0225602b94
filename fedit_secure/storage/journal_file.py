"""The journal's SQLite file: its format, its lock, and how it is opened."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from fedit_secure.errors import StorageError
from fedit_secure.federation.durable import sync_folder

APPLICATION = 0x46454454  # "FEDT", in the file's header
VERSION = 1
# The rollback journal with EXTRA also syncs the folder after the journal's removal:
# with FULL alone a power cut can bring the journal, and so the state before, back.
_DURABLE = (
    "PRAGMA journal_mode=DELETE",
    "PRAGMA synchronous=EXTRA",
    "PRAGMA fullfsync=ON",
    "PRAGMA secure_delete=ON",
)
_WARY = ("PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON")
_SCHEMA = (
    (
        "CREATE TABLE entries (population TEXT NOT NULL, sequence INTEGER NOT NULL,"
        " value BLOB NOT NULL, digest BLOB NOT NULL,"
        " PRIMARY KEY (population, sequence)) STRICT, WITHOUT ROWID"
    ),
    (
        "CREATE TABLE cells (kind TEXT NOT NULL, key TEXT NOT NULL,"
        " value BLOB NOT NULL, digest BLOB NOT NULL,"
        " PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID"
    ),
    (
        "CREATE TABLE updates (charter BLOB NOT NULL, round INTEGER NOT NULL,"
        " name BLOB NOT NULL, value BLOB NOT NULL, digest BLOB NOT NULL,"
        " PRIMARY KEY (charter, round)) STRICT"
    ),
    (
        "CREATE TRIGGER entries_stay BEFORE UPDATE ON entries"
        " BEGIN SELECT RAISE(ABORT, 'ledger entries stay'); END"
    ),
    (
        "CREATE TRIGGER entries_last BEFORE DELETE ON entries"
        " BEGIN SELECT RAISE(ABORT, 'ledger entries stay'); END"
    ),
    f"PRAGMA application_id={APPLICATION}",
    f"PRAGMA user_version={VERSION}",
)


class JournalInUse(StorageError):
    """Another process holds the journal's lock."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_READONLY_ROLLBACK:
            # Only who may write can take back what was half-written.
            raise StorageError(
                f"a process died while it wrote to {path}: fedit silo serve puts it right "
                "when it starts"
            ) from error
        raise StorageError(f"the journal {path} can't be used: {error}") from error


def take_lock(path: Path) -> int:
    """Hold `<path>.lock` until the descriptor is closed; StorageError if it is held."""
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{lock_path} can't be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise JournalInUse(
            f"another process is using {path}: two daemons can't share a state folder"
        ) from error
    return descriptor


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file, "rw" or "ro"; every commit is then on the disk when it returns."""
    with translated(path):
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            for pragma in _WARY if mode == "ro" else _WARY + _DURABLE:
                connection.execute(pragma).fetchall()
        except BaseException:
            connection.close()
            raise
        return connection


def settle(path: Path) -> None:
    """Make safe what lies there now: an earlier process may have died between its last
    write and the sync, and what it wrote is about to be read as done."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} can't be synced: {error.strerror}") from error


def create_file(path: Path) -> None:
    """Make an empty journal under another name first: a crash leaves none or one."""
    draft = path.with_name(f".{path.name}.draft")
    with translated(path):
        try:
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            connection = connect(draft, "rw")
            try:
                for statement in _SCHEMA:
                    connection.execute(statement)
            finally:
                connection.close()
            draft.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"{path} can't be created: {error.strerror}") from error
