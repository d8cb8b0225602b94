"""A party's next identity: made beside the one in use, and put in its place once a charter
pins it.

`identity/` is in use, `identity.next/` waits for its charter, and `identity.retired-<key>/`
was in use before. A silo's ledger goes over to the new key first (`silo/rotating.py`): so
what a crash leaves is always finished by doing it again.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fedit_secure.errors import ConfigError, PolicyRefusal, StorageError
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import sync_folder
from fedit_secure.federation.identity import Identity, create_identity, load_identity
from fedit_secure.federation.passphrase import Passphrase


def next_folder(folder: Path) -> Path:
    """Where the identity after the one in `folder` is made."""
    return folder.with_name(f"{folder.name}.next")


def begin_rotation(
    current: Identity,
    *,
    now: datetime,
    passphrase: Passphrase | None,
    records: int | None = None,
    persons: int | None = None,
) -> Identity:
    """New keys and a new card, which says the same but for what is given here.

    Raises ConfigError if a rotation has begun already, or a number doesn't fit the card.
    """
    folder, card = next_folder(current.folder), current.card
    if folder.exists():
        raise ConfigError(
            f"{folder} is there already: that identity waits for a charter that pins it"
        )
    return create_identity(
        folder,
        card.name,
        card.role,
        card.contact,
        now=now,
        population=card.population,
        records=card.records if records is None else records,
        persons=card.persons if persons is None else persons,
        names_persons=bool(card.names_persons),
        passphrase=passphrase,
    )


def require_pinned(charter: Charter, card: Card) -> None:
    """Raises PolicyRefusal unless the charter has this party's card unaltered."""
    hub = charter.aggregator
    if card.role == "silo":
        charter.check_card(card)
    elif (card.name, card.identity, card.issuer_certificate) != (
        hub.name,
        hub.identity,
        hub.issuer_certificate,
    ):
        raise PolicyRefusal("the charter pins another identity for the aggregator")


def identity_under(
    charter: Charter, folder: Path, passphrase: Passphrase | None
) -> Identity:
    """The identity in use, or else the next one: the one that the charter pins.

    Raises PolicyRefusal if that is neither, ConfigError as `load_identity`.
    """
    current = load_identity(folder, passphrase)
    try:
        require_pinned(charter, current.card)
    except PolicyRefusal:
        if not next_folder(folder).is_dir():
            raise
        following = load_identity(next_folder(folder), passphrase)
        require_pinned(charter, following.card)
        return following
    return current


def identity_in_use(
    charter: Charter, folder: Path, passphrase: Passphrase | None
) -> Identity:
    """The same for a daemon, which works under the identity in use alone.

    Raises ConfigError, with the command to give, if the charter pins the next one.
    """
    found = identity_under(charter, folder, passphrase)
    if found.folder != folder:
        raise ConfigError(
            f"the charter pins the identity in {found.folder}, which isn't in use yet: run "
            f"fedit {found.card.role} rotate --finish"
        )
    return found


def put_in_use(folder: Path) -> Path | None:
    """Move the next identity into `folder`; returns where the one before it is now, None
    if an earlier call had moved that one already. Raises StorageError.
    """
    retired = None
    try:
        if folder.is_dir():
            (card,) = folder.glob("*.card")
            key = Card.load(card).identity
            retired = folder.with_name(f"{folder.name}.retired-{key[:8]}")
            folder.rename(retired)
        next_folder(folder).rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(
            f"{next_folder(folder)} can't be moved to {folder}: {error.strerror}"
        ) from error
    return retired
