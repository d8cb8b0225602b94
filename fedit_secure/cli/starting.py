"""What both `init` commands do: keys and card in `identity`, starter files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from fedit_secure.errors import ConfigError
from fedit_secure.federation.card import Role
from fedit_secure.federation.durable import write_durably
from fedit_secure.federation.identity import Identity, create_identity
from fedit_secure.federation.passphrase import read_new_passphrase


def start_folder(
    folder: Path,
    files: Mapping[str, str],
    *,
    name: str,
    role: Role,
    contact: str,
    population: str | None = None,
    records: int | None = None,
    persons: int | None = None,
    names_persons: bool = False,
    passphrase_file: Path | None = None,
) -> Identity:
    """Makes an identity in `folder`/identity, and each of `files` that isn't there yet.

    With a passphrase's file the keys are encrypted, and the first of the files names it.
    Raises ConfigError if an identity is there already or a field is bad: nothing has
    then been written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} isn't a folder")
    identity = create_identity(
        folder / "identity",
        name,
        role,
        contact,
        now=datetime.now(UTC),
        population=population,
        records=records,
        persons=persons,
        names_persons=names_persons,
        passphrase=(
            None if passphrase_file is None else read_new_passphrase(passphrase_file)
        ),
    )
    if passphrase_file is not None:
        first = next(iter(files))
        line = f"passphrase_file: {json.dumps(str(passphrase_file.resolve()))}\n"
        files = {**files, first: files[first] + line}
    for file, text in files.items():
        if not (folder / file).exists():
            write_durably(folder / file, text.encode())
    return identity
