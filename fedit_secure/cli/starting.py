"""What both `init` commands do: keys and card in `identity`, starter files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from fedit_secure.errors import ConfigError
from fedit_secure.federation.card import Role
from fedit_secure.federation.durable import write_durably
from fedit_secure.federation.identity import Identity, create_identity


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
) -> Identity:
    """Makes an identity in `folder`/identity, and each of `files` that isn't there yet.

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
    )
    for file, text in files.items():
        if not (folder / file).exists():
            write_durably(folder / file, text.encode())
    return identity
