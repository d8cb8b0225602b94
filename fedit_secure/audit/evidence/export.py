"""Writes a bundle. The same evidence gives the same bytes; a crash leaves no half of one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from fedit_secure import __version__
from fedit_secure.audit.bundle import LABEL, MANIFEST, SIGNATURE, Maker, Manifest
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.durable import drafted
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import digest

_CHUNK: Final = 1 << 20
_EARLIEST: Final = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # a .zip file has no earlier date, and needs one
_STORED: Final = ".int32"  # masked by noise in every bit: nothing to compress


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a bundle: its bytes, or the file where they lie.

    `size` bytes of that file, all of it by default: an append-only file may grow while
    it is read.
    """

    name: str
    content: bytes | Path
    size: int | None = None

    def chunks(self) -> Iterator[bytes]:
        """The content in parts of 1 MiB at most. Raises StorageError."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        left = self.size
        try:
            with self.content.open("rb") as file:
                while left != 0:
                    part = file.read(_CHUNK if left is None else min(_CHUNK, left))
                    if not part:
                        break
                    left = None if left is None else left - len(part)
                    yield part
        except OSError as error:
            raise _unreadable(self.content, error) from error

    def length(self) -> int:
        """In bytes. Raises StorageError."""
        if isinstance(self.content, bytes):
            return len(self.content)
        if self.size is not None:
            return self.size
        try:
            return self.content.stat().st_size
        except OSError as error:
            raise _unreadable(self.content, error) from error

    def sha256(self) -> str:
        """In hex. Raises StorageError."""
        hashed = hashlib.sha256()
        for part in self.chunks():
            hashed.update(part)
        return hashed.hexdigest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The pieces of a bundle. `rounds`: the last one of which the transcript is there,
    None where its maker has none. `lacks` says, for people, what an auditor may miss.
    """

    pieces: tuple[Piece, ...]
    rounds: int | None
    lacks: tuple[str, ...] = ()


def export_bundle(
    path: Path,
    pieces: Iterable[Piece],
    *,
    maker: Maker,
    charter: bytes,
    key: SigningKey,
    replace: bool = False,
) -> Manifest:
    """Write the .zip file `path` of these pieces, with a manifest that `key` signs.

    `charter` is R, 32 bytes. However large the pieces are, 1 MiB of them is in memory.

    Raises:
        ConfigError: `path` exists, and `replace` is False.
        StorageError: the disk refuses, or a piece can't be read or changes meanwhile.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} exists already, and is not overwritten")
    given = sorted(pieces, key=lambda piece: piece.name)
    manifest = Manifest(
        maker=maker,
        charter=charter.hex(),
        software=f"fedit-secure {__version__}",
        files={piece.name: piece.sha256() for piece in given},
    )
    if len(manifest.files) != len(given):
        raise ValueError("two pieces of a bundle have one name")
    data = manifest.to_bytes()
    signature = key.sign(digest(LABEL, data))
    own = (Piece(MANIFEST, data), Piece(SIGNATURE, signature))
    with drafted(path, replace=replace) as file:
        _write(file, sorted((*given, *own), key=lambda piece: piece.name), manifest)
    return manifest


def _write(file: BinaryIO, pieces: Iterable[Piece], manifest: Manifest) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for piece in pieces:
            info = zipfile.ZipInfo(piece.name, _EARLIEST)
            info.create_system = 3  # whatever system writes it
            info.external_attr = 0o100644 << 16
            stored = piece.name.endswith(_STORED)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            info.file_size = piece.length()
            hashed = hashlib.sha256()
            with archive.open(info, "w") as entry:
                for part in piece.chunks():
                    hashed.update(part)
                    entry.write(part)
            # The manifest is signed by now: what it doesn't say must not be in there.
            if hashed.hexdigest() != manifest.files.get(piece.name, hashed.hexdigest()):
                raise StorageError(
                    f"{piece.content!s} changed while it was exported; export it again"
                )


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} can't be read: {error.strerror}")
