"""`fedit silo encrypt` and `fedit aggregator encrypt`: the passphrase of keys that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedit_secure.cli.output import OutputFormat, note, show

PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="Encrypt the keys under the passphrase in this file, mode 0600.",
    ),
]
RemoveOption = Annotated[
    bool, typer.Option("--remove", help="Leave the keys unencrypted.")
]


def encrypt_keys(
    config: Any, given: Path | None, remove: bool, format: OutputFormat
) -> None:
    """Change what the keys of a SiloConfig or an AggregatorConfig are encrypted under, and
    say what comes next.

    The passphrase that they have now is the configuration's. Raises ConfigError unless
    exactly one of the two options is given; StorageError if the keys can't be written.
    """
    from fedit_secure.config import passphrase_of
    from fedit_secure.errors import ConfigError
    from fedit_secure.federation.identity import change_passphrase
    from fedit_secure.federation.passphrase import read_new_passphrase

    if (given is None) is not remove:
        raise ConfigError("give either --passphrase-file or --remove")
    new = None if given is None else read_new_passphrase(given)
    identity = change_passphrase(config.identity, passphrase_of(config), new)
    facts = {
        "name": identity.name,
        "identity": identity.folder,
        "encrypted": new is not None,
        "passphrase_file": None if given is None else given.resolve(),
    }
    show(facts, format)
    note(
        "take passphrase_file out of the configuration"
        if new is None
        else "name that file as passphrase_file in the configuration, or hand it over as "
        "the systemd credential fedit-passphrase"
    )
