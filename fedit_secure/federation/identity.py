"""A party's key files and public card. Keys never leave the folder they were made
in.
"""

from __future__ import annotations

import secrets
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.card import Card, Role, sign_card
from fedit_secure.federation.certificates import check_issuer, make_issuer, make_leaf
from fedit_secure.federation.document import describe
from fedit_secure.federation.durable import read_file, sync_folder, write_durably
from fedit_secure.federation.key_files import (
    read_issuer_key,
    read_signing_key,
    write_keys,
)
from fedit_secure.federation.passphrase import Passphrase
from fedit_secure.secagg.keys import SigningKey

VALID_DAYS = 3 * 365


@dataclass(frozen=True, slots=True)
class Identity:
    """One party's keys with its card; the keys aren't printed."""

    folder: Path
    card: Card
    signing: SigningKey = field(repr=False)
    issuer_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def name(self) -> str:
        """The party's name, as on its card."""
        return self.card.name

    @property
    def card_path(self) -> Path:
        """Where the public card lies."""
        return self.folder / f"{self.card.name}.card"


def create_identity(
    folder: Path,
    name: str,
    role: Role,
    contact: str,
    *,
    now: datetime,
    population: str | None = None,
    records: int | None = None,
    persons: int | None = None,
    names_persons: bool = False,
    valid_days: int = VALID_DAYS,
    passphrase: Passphrase | None = None,
) -> Identity:
    """Makes keys and card in `folder` (0700), which must not exist or be empty.

    Writes identity.key (Ed25519) and issuer.key (P-256), both PKCS#8 PEM, 0600 and under
    the passphrase, issuer.crt and <name>.card; a crash leaves all of them or none. Raises
    ConfigError if the folder holds anything or a field is bad, StorageError if it can't
    be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} isn't empty, and an identity is never overwritten")
    signing = SigningKey.from_seed(secrets.token_bytes(32))
    issuer_key = ec.generate_private_key(ec.SECP256R1())
    end = now + timedelta(days=valid_days)
    try:
        card = sign_card(
            signing,
            name=name,
            role=role,
            issuer_certificate=make_issuer(issuer_key, role, name, now, end),
            population=population or (name if role == "silo" else None),
            records=records,
            persons=persons,
            names_persons=names_persons,
            expires=end.date(),
            contact=contact,
        )
    except ValidationError as error:
        raise ConfigError(f"the card: {describe(error.errors()[0])}") from error
    _write_folder(folder, signing, issuer_key, card, passphrase)
    return Identity(folder, card, signing, issuer_key)


def load_identity(folder: Path, passphrase: Passphrase | None = None) -> Identity:
    """Reads what `create_identity` wrote, and checks that keys and card belong
    together.

    Raises ConfigError if a file is missing or damaged, if a key can be read by anybody but
    its owner, if the keys are encrypted and the passphrase doesn't open them, or if they
    aren't and one is given.
    """
    return _load(folder, passphrase)


def change_passphrase(
    folder: Path, old: Passphrase | None, new: Passphrase | None
) -> Identity:
    """Writes both keys anew under another passphrase, or unencrypted (None).

    A crash in between leaves one key under each; done again, it goes through. Raises as
    `load_identity`, and StorageError if the folder can't be written.
    """
    identity = _load(folder, old, new)
    write_keys(folder, identity.signing, identity.issuer_key, new)
    return identity


def _load(folder: Path, *passphrases: Passphrase | None) -> Identity:
    if not folder.is_dir():
        waiting = folder.with_name(f"{folder.name}.next").is_dir()
        hint = "; a rotation was cut short, and rotate --finish ends it" * waiting
        raise ConfigError(f"there is no identity folder {folder}{hint}")
    if stat.S_IMODE(folder.stat().st_mode) & 0o022:
        raise ConfigError(f"others may write to {folder}; run chmod 700 on it")
    cards = sorted(folder.glob("*.card"))
    if len(cards) != 1:
        raise ConfigError(f"{folder} holds {len(cards)} cards instead of one")
    card = Card.load(cards[0])
    card.check()
    signing = read_signing_key(folder, *passphrases)
    issuer_key = read_issuer_key(folder, *passphrases)
    certificate = check_issuer(card.issuer_certificate)
    if (
        issuer_key.public_key() != certificate.public_key()
        or signing.public != card.public_key
    ):
        raise ConfigError(f"the keys in {folder} aren't those of {cards[0].name}")
    return Identity(folder, card, signing, issuer_key)


def issue_leaf(
    identity: Identity, hosts: Sequence[str], now: datetime
) -> tuple[bytes, bytes]:
    """A TLS key and certificate chain for 90 days, as (key PEM, leaf + issuer PEM).

    `hosts` are names or addresses beside the party's own. Serials rise with time and
    across restarts (kept in leaf.serial): peers refuse one below the highest that they
    have seen. Raises StorageError if the serial can't be kept.
    """
    path = identity.folder / "leaf.serial"
    highest = 0
    if path.exists():
        text = read_file(path, "serial file").decode(errors="replace").strip()
        if not text.isascii() or not text.isdigit():
            raise StorageError(f"{path} doesn't hold a serial number")
        highest = int(text)
    serial = max(highest + 1, int(now.timestamp()))
    write_durably(path, f"{serial}\n".encode(), mode=0o600)
    return make_leaf(
        identity.issuer_key,
        identity.card.issuer_certificate,
        identity.card.role,
        identity.name,
        hosts,
        serial,
        now,
    )


def _write_folder(
    folder: Path,
    signing: SigningKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    card: Card,
    passphrase: Passphrase | None,
) -> None:
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir(mode=0o700)
        try:
            write_keys(draft, signing, issuer_key, passphrase)
            write_durably(draft / "issuer.crt", card.issuer_certificate.encode())
            write_durably(draft / f"{card.name}.card", card.to_bytes())
            # Replaces an empty folder; fails, by then, on one that holds something.
            draft.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{folder} can't be written: {error.strerror}") from error
