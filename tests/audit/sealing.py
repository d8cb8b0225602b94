"""The manifest of a bundle, its signature, and the file that all of it goes into."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from audit.parties import HUB, key_of

from fedit_secure.audit.bundle import LABEL, MANIFEST, SIGNATURE, Maker, Manifest
from fedit_secure.federation.charter import Charter
from fedit_secure.secagg.transcript import digest


def sealed(
    files: Mapping[str, bytes], charter: Charter, maker: str, signed_by: str = ""
) -> dict[str, bytes]:
    """The files with the manifest that lists them, signed by its maker."""
    manifest = Manifest(
        maker=Maker(role="aggregator" if maker == HUB else "silo", name=maker),
        charter=charter.digest().hex(),
        software="fedit-secure 0.1.0",
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    return {**files, **signed_manifest(manifest, signed_by or maker)}


def signed_manifest(manifest: Manifest, by: str) -> dict[str, bytes]:
    """The manifest's file and its signature's."""
    data = manifest.to_bytes()
    return {MANIFEST: data, SIGNATURE: key_of(by).sign(digest(LABEL, data))}


def write_zip(files: Mapping[str, bytes], path: Path) -> Path:
    """The bundle as one file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return path


def write_folder(files: Mapping[str, bytes], path: Path) -> Path:
    """The bundle as a folder."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
