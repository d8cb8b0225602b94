"""What a process asks of its kernel: `syscalls.c`, built and spoken to.

The library is preloaded into a silo's process. There it counts *points*: every write,
sync, truncation, creation, renaming and removal below one folder, and every send to a
peer. At one of them the process dies, or calls from there on fail as on a bad disk.
"""

from __future__ import annotations

import ctypes
import errno
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import pytest

BEFORE, HALF, AFTER = range(3)
EVER = 1 << 30
_HEAD = struct.Struct("<iiqII")


class Kind(IntEnum):
    OPEN = 1
    CLOSE = 2
    WRITE = 3
    SYNC = 4
    TRUNCATE = 5
    RENAME = 6
    LINK = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    SEND = 11
    MARK = 12


def kinds(*some: Kind) -> int:
    """The mask of these kinds."""
    return sum(1 << kind for kind in some)


@dataclass(frozen=True)
class Fate:
    """How one process fares. Point `kill_at` (from 1) is the last: the process dies
    before it, after half of what it writes, or after it. Or, where there is a `step`, the
    first call of the kinds `at` in or after that step of its books.

    Calls of the kinds `fail_kinds` on files whose name ends in `fail_name` fail with
    `fail_error`, from the `fail_from`th on, `fail_times` of them; counted from the step,
    where there is one. `clock` is by how many
    seconds its clock is wrong; `file_bytes` the length that no file may pass.
    """

    kill_at: int = -1
    how: int = BEFORE
    step: str = ""
    at: int = 0
    fail_kinds: int = 0
    fail_name: str = ""
    fail_from: int = 1
    fail_times: int = EVER
    fail_error: int = 0
    clock: int = 0
    file_bytes: int | None = None


FULL = Fate(fail_kinds=kinds(Kind.WRITE), fail_error=errno.ENOSPC)
READ_ONLY = Fate(
    fail_kinds=kinds(Kind.OPEN, Kind.MKDIR, Kind.UNLINK, Kind.RENAME, Kind.LINK),
    fail_error=errno.EROFS,
)


@dataclass(frozen=True)
class Call:
    """One entry of a record: `at` is an offset, a length or the flags of an open; `one`
    and `two` are data or names."""

    kind: Kind
    fd: int
    at: int
    one: bytes
    two: bytes


@cache
def library() -> Path:
    """The built library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here: nothing can stand behind SQLite")
    source = Path(__file__).with_suffix(".c")
    built = Path(tempfile.mkdtemp(prefix="syscalls")) / "syscalls.so"
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [compiler, *options, "-o", built, source, "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


class Kernel:
    """The preloaded library, in the process that it watches."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_points.restype = ctypes.c_long
        self._library.faults_failed.restype = ctypes.c_long

    def begin(self, below: Path, record: int, fate: Fate) -> None:
        """Count from here on what is done below a folder; `record` is a descriptor."""
        call = self._library
        if not fate.step:
            self.arm(fate)
        call.faults_clock(ctypes.c_long(fate.clock))
        call.faults_begin(
            str(below).encode(), record, ctypes.c_long(fate.kill_at), fate.how
        )

    def arm(self, fate: Fate) -> None:
        """From here on a call of its kinds is the last point, or fails."""
        self._library.faults_arm(fate.at)
        self._library.faults_fail(
            fate.fail_kinds,
            fate.fail_name.encode(),
            ctypes.c_long(fate.fail_from),
            ctypes.c_long(fate.fail_times),
            fate.fail_error,
        )

    def mark(self, text: str) -> None:
        """Write this into the record, between the calls before and after it."""
        self._library.faults_mark(text.encode())

    @property
    def points(self) -> int:
        """How many have passed."""
        return int(self._library.faults_points())

    @property
    def failed(self) -> int:
        """How many calls were made to fail."""
        return int(self._library.faults_failed())


def record_of(path: Path) -> list[Call]:
    """The calls that a process recorded, in the order of their effects."""
    data, start, calls = path.read_bytes(), 0, []
    while start < len(data):
        kind, fd, at, one, two = _HEAD.unpack_from(data, start)
        start += _HEAD.size
        middle, end = start + one, start + one + two
        calls.append(Call(Kind(kind), fd, at, data[start:middle], data[middle:end]))
        start = end
    return calls
