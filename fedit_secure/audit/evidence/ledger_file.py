"""A ledger as a file of one entry a line: where its first entries end, and their hash.

Read line by line: a ledger of a thousand rounds is never in memory.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedit_secure.errors import StorageError


def below(path: Path, sequence: int) -> tuple[int, bytes]:
    """The size in bytes of the first `sequence` entries, and the chain's hash after them.

    Raises StorageError if the file has fewer.
    """
    size, last = 0, bytes(32)
    try:
        with path.open("rb") as file:
            for _ in range(sequence):
                line = file.readline()
                if not line.endswith(b"\n"):
                    raise StorageError(
                        f"{path} ends before entry {sequence}, which was signed"
                    )
                size += len(line)
                last = hashlib.sha256(last + line[:-1]).digest()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    return size, last
