"""What `fedit silo rotate` and `fedit aggregator rotate` make, check and move."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fedit_secure.cli.output import OutputFormat, note, show
from fedit_secure.config import AggregatorConfig, SiloConfig, passphrase_of
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.approval import check_approved
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.rotation import (
    begin_rotation,
    next_folder,
    put_in_use,
    require_pinned,
)
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.rotating import rotate_ledgers
from fedit_secure.storage.journal_file import JournalInUse

Config = SiloConfig | AggregatorConfig


def rotate(
    config: Config,
    finish: bool,
    format: OutputFormat,
    records: int | None = None,
    persons: int | None = None,
) -> None:
    """One of the two steps, with what it made and what comes next."""
    if finish:
        show(_finish(config), format)
        note("keep the retired folder until the first round of the new epoch is over")
        return
    show(_begin(config, records, persons), format)
    note("give the new card to the coordinator, for the next charter epoch")


def _begin(config: Config, records: int | None, persons: int | None) -> dict[str, Any]:
    """Makes the next identity; the one in use, and a daemon under it, go on."""
    passphrase = passphrase_of(config)
    current = load_identity(config.identity, passphrase)
    made = begin_rotation(
        current,
        now=datetime.now(UTC),
        passphrase=passphrase,
        records=records,
        persons=persons,
    )
    return {
        "name": made.name,
        "card": made.card_path,
        "identity": made.card.identity,
        "card_expires": made.card.expires,
    }


def _finish(config: Config) -> dict[str, Any]:
    """Puts the next identity in use, under a charter that pins it.

    A silo's ledgers go over first, signed by the old key. Raises ConfigError if no rotation
    has begun, PolicyRefusal if the charter pins another card or isn't approved, and
    StorageError while a daemon runs.
    """
    folder, passphrase = config.identity, passphrase_of(config)
    if not next_folder(folder).is_dir():
        raise ConfigError(f"no rotation has begun: there is no {next_folder(folder)}")
    following = load_identity(next_folder(folder), passphrase)
    charter = Charter.load(config.charter)
    require_pinned(charter, following.card)
    rotated: tuple[str, ...] = ()
    if isinstance(config, SiloConfig):
        check_approved(config.state, charter)
        # Gone, if an earlier call died between the two moves.
        old = load_identity(folder, passphrase).signing if folder.is_dir() else None
        try:
            with open_journal(config.state) as journal:
                population = charter.row(config.name).population
                new = following.signing.public
                rotated = rotate_ledgers(journal, population, old, new)
                retired = put_in_use(folder)
        except JournalInUse:
            raise StorageError(
                f"the silo's daemon is running on {config.state}: stop it, then finish the "
                "rotation"
            ) from None
    else:
        retired = put_in_use(folder)
    return {
        "name": following.name,
        "identity": following.card.identity,
        "ledgers": list(rotated),
        "retired": retired,
    }
