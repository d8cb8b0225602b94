"""Masked uploads on disk: memory stays at one vector however many silos there are.

An upload's file has no name left once it is whole and mapped: its space goes back to
the disk when the last reference to the payload goes, also when the process dies.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import threading
import weakref
from pathlib import Path

from fedit_secure.errors import MalformedMessage, StorageError
from fedit_secure.secagg.transcript import join, u64

_SUFFIX = ".upload"


class Spool:
    """A folder of uploads, which together never pass `max_bytes`.

    For one process: what an earlier one left in the folder is removed at the start. The
    attempt that it was uploaded in is voided then, so nobody would go on with it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max = max_bytes
        self._used = 0
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for stale in folder.glob(f"*{_SUFFIX}"):
                stale.unlink()
        except OSError as error:
            raise StorageError(
                f"the spool {folder} can't be used: {error.strerror}"
            ) from error

    @property
    def used(self) -> int:
        """Bytes that uploads take now, whether growing, whole or in use."""
        return self._used

    def open(self, ctx: bytes, silo: int, length: int) -> SpoolFile:
        """A file for the `length` bytes that a silo uploads in an attempt.

        Raises:
            StorageError: if the spool's limit or the disk has no room for all of them.
        """
        self._reserve(length)
        name = f"{ctx.hex()[:16]}-{silo}-{secrets.token_hex(4)}{_SUFFIX}"
        path = self._folder / name
        try:
            return SpoolFile(self, path, length)
        except OSError as error:
            path.unlink(missing_ok=True)
            self.release(length)
            raise StorageError(
                f"no room for an upload of {length} bytes in {self._folder}: "
                f"{error.strerror}"
            ) from error

    def release(self, length: int) -> None:
        """Give back what an upload took."""
        with self._lock:
            self._used -= length

    def _reserve(self, length: int) -> None:
        with self._lock:
            if self._used + length > self._max:
                raise StorageError(
                    f"an upload of {length} bytes exceeds the spool's {self._max}, of "
                    f"which {self._used} are taken"
                )
            self._used += length


class SpoolFile:
    """One upload: `write` in order, then `finish`; or `discard`, at any time."""

    def __init__(self, spool: Spool, path: Path, length: int) -> None:
        self._spool = spool
        self._path = path
        self._length = length
        self._written = 0
        # digest("fedit/payload/v1", payload), as the bytes come: nobody waits for the
        # whole to be read again, and no page of it need be in this process's memory.
        self._hash = hashlib.sha256(join(b"fedit/payload/v1") + u64(length))
        self._open = True
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # A disk that is too full says so here, not in the middle of an upload.
            os.posix_fallocate(self._descriptor, 0, length)
        except OSError:
            os.close(self._descriptor)
            raise

    @property
    def written(self) -> int:
        """Bytes that are there: where an upload that broke off goes on."""
        return self._written

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Add bytes at the end, which `offset` names.

        Raises:
            MalformedMessage: another offset, or more bytes than were announced.
            StorageError: the disk refuses, or the upload was discarded.
        """
        with self._lock:
            self._must_be_open()
            end = offset + len(data)
            if offset != self._written or end > self._length:
                raise MalformedMessage(
                    f"bytes {offset} to {end} of an upload of {self._length} bytes, of "
                    f"which {self._written} are there"
                )
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.pwrite(self._descriptor, rest, end - len(rest)) :]
            except OSError as error:
                raise StorageError(
                    f"an upload can't be written: {error.strerror}"
                ) from error
            self._hash.update(data)
            self._written = end

    def finish(self, payload_digest: bytes) -> memoryview:
        """The whole payload, mapped read-only, if it has the digest that was signed.

        Raises:
            MalformedMessage: bytes are missing, or they are others.
            StorageError: the upload was discarded.
        """
        with self._lock:
            self._must_be_open()
            if self._written != self._length:
                raise MalformedMessage(
                    f"an upload of {self._written} bytes instead of {self._length}"
                )
            if self._hash.digest() != payload_digest:
                raise MalformedMessage("an upload that isn't what its header signs")
            mapped = mmap.mmap(self._descriptor, self._length, access=mmap.ACCESS_READ)
            payload = memoryview(mapped)
            # From here the reservation lives as long as the mapping.
            weakref.finalize(mapped, self._spool.release, self._length)
            self._close()
            return payload

    def discard(self) -> None:
        """Drop what was written; nothing if the upload is finished or dropped."""
        with self._lock:
            if self._open:
                self._close()
                self._spool.release(self._length)

    def _must_be_open(self) -> None:
        if not self._open:
            raise StorageError("this upload was discarded")

    def _close(self) -> None:
        self._open = False
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)
