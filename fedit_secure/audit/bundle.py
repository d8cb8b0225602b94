"""The files of a bundle: a .zip file or a folder with one run's evidence.

manifest.json          who made it, of which charter, and every other file's SHA-256
manifest.sig           the maker's signature under the manifest, 64 bytes
charter.json           the charter's file
approvals/<silo>.approval
cards/<name>.card      of silos and the aggregator, where the maker had them
ledgers/<silo>.jsonl   one entry a line, as the silo chained them
heads/<silo>.json      the head that silo and aggregator signed last (`SignedHead`)
claims/<silo>.claim    the epsilon that the silo signed (`federation/claim.py`)
seen/<silo>.json       heads of its peers that this silo saw (`SeenHeads`)
initial.state          the state that the run began with
rounds/<NNNNNN>/       adverts.frame, published.frame, sum.int32, certificate.frame
adapters.json          by round, the digest of the adapter that was written

Names are relative, with "/", and what isn't listed here isn't read.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, ClassVar, Final, Literal, Self

from pydantic import Field

from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import Document, Hex32, Line, Name, Part, brief
from fedit_secure.federation.heads import SignedHead

__all__ = [
    "LABEL",
    "MANIFEST",
    "MAX_FILES",
    "SIGNATURE",
    "AdapterDigests",
    "Bundle",
    "Maker",
    "Manifest",
    "SeenHead",
    "SeenHeads",
    "SignedHead",
    "charter_of",
    "round_name",
]

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
LABEL: Final = "fedit/bundle/v1"
MAX_FILES: Final = 1_000_000
_MAX_FILE: Final = 1 << 34
_PIECE: Final = 1 << 20
# All that the standard library raises for files and archives that aren't what they say.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*){0,2}")


class Maker(Part):
    """Who made a bundle: `role` and name as in the charter."""

    role: Literal["aggregator", "silo"]
    name: Name


class Manifest(Document):
    """manifest.json. `charter` is R in hex; `files` gives every other file's SHA-256."""

    most_bytes: ClassVar[int] = 128 << 20

    format: Literal["fedit/bundle/v1"] = "fedit/bundle/v1"
    maker: Maker
    charter: Hex32
    software: Line
    files: dict[str, Hex32]


class SeenHead(Part):
    """A head of a peer's ledger, from an advert that the peer signed."""

    silo: Name
    population: Line
    sequence: Annotated[int, Field(ge=0, lt=2**53)]
    hash: Hex32


class SeenHeads(Document):
    """What one silo last saw of its peers, by its own word."""

    most_bytes: ClassVar[int] = 16 << 20

    heads: tuple[SeenHead, ...]


class AdapterDigests(Document):
    """`by_round`: a round's number in decimal, and the digest of its adapter's tensors."""

    most_bytes: ClassVar[int] = 64 << 20

    by_round: dict[str, Hex32]


class Bundle:
    """An open bundle. `names` are the files that are there, sorted."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if it is neither a folder nor a whole .zip file."""
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        try:
            if path.is_dir():
                found = (p for p in path.rglob("*") if p.is_file())
                names = [p.relative_to(path).as_posix() for p in found]
            else:
                self._zip = zipfile.ZipFile(path)
                names = _listed(self._zip, path)
        except _UNREADABLE as error:
            raise ConfigError(f"the bundle {path} can't be read: {error}") from error
        if len(names) > MAX_FILES:
            raise ConfigError(f"the bundle {path} has more than {MAX_FILES} files")
        self.names = tuple(sorted(names))
        self._known = frozenset(names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._zip is not None:
            self._zip.close()

    def read(self, name: str, most: int = _MAX_FILE) -> bytes | None:
        """A file's bytes, None if it isn't there.

        Raises ConfigError where it is larger than `most` bytes, or can't be read.
        """
        if name not in self._known:
            return None
        if _NAME.fullmatch(name) is None:
            raise ConfigError(f"the bundle {self.path} has a file of a strange name")
        try:
            # A header may lie about the size: read no further than it may be.
            with self._open(name) as file:
                data = file.read(most + 1)
        except _UNREADABLE as error:
            raise ConfigError(
                f"{name} in {self.path} can't be read: {error}"
            ) from error
        if len(data) > most:
            raise ConfigError(f"{name} in {self.path} is larger than {most} bytes")
        return data

    def sha256(self, name: str) -> str:
        """The digest, in hex, of a file that is there and may be of any size.

        Raises ConfigError if it can't be read.
        """
        made = hashlib.sha256()
        try:
            with self._open(name) as file:
                while piece := file.read(_PIECE):
                    made.update(piece)
        except _UNREADABLE as error:
            raise ConfigError(
                f"{name} in {self.path} can't be read: {error}"
            ) from error
        return made.hexdigest()

    def _open(self, name: str) -> IO[bytes]:
        if self._zip is None:
            return (self.path / name).open("rb")
        return self._zip.open(name)

    def stems(self, folder: str, suffix: str) -> Iterator[str]:
        """The names in `folder` that end in `suffix`, without both."""
        for name in self.names:
            head, _, rest = name.partition("/")
            if head == folder and rest.endswith(suffix) and "/" not in rest:
                yield rest.removesuffix(suffix)


def _listed(archive: zipfile.ZipFile, path: Path) -> list[str]:
    """The names of the files in an archive, each there once and of a plain kind."""
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise ConfigError(f"the bundle {path} has a file twice")
    for entry in archive.infolist():
        plain = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if not plain or entry.flag_bits & 1:
            raise ConfigError(
                f"{brief(entry.filename)} in {path} is encrypted, or compressed in a way "
                "that bundles aren't"
            )
    return [name for name in names if not name.endswith("/")]


def charter_of(bundle: Bundle) -> Charter:
    """The charter in a bundle. Raises ConfigError if there is none, or it isn't one."""
    data = bundle.read("charter.json", Charter.most_bytes)
    if data is None:
        raise ConfigError(f"{bundle.path} is no bundle: it has no charter.json")
    return Charter.from_bytes(data, f"charter.json in {bundle.path}")


def round_name(round: int, file: str) -> str:
    """The name of a round's file in a bundle."""
    return f"rounds/{round:06d}/{file}"
