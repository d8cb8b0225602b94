"""A party's two private keys as files: PKCS#8 PEM, encrypted where there is a passphrase.

Nothing here quotes what it reads, neither in an error nor by chaining a parser's.
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import read_file, write_durably
from fedit_secure.federation.passphrase import Passphrase
from fedit_secure.secagg.keys import SigningKey

IDENTITY, ISSUER = "identity.key", "issuer.key"
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def write_keys(
    folder: Path,
    signing: SigningKey,
    issuer: ec.EllipticCurvePrivateKey,
    passphrase: Passphrase | None,
) -> None:
    """Writes both files, 0600, each of them whole or not at all. Raises StorageError."""
    identity = ed25519.Ed25519PrivateKey.from_private_bytes(signing.seed())
    under: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        under = BestAvailableEncryption(passphrase.content)
    keys: dict[str, _PrivateKey] = {IDENTITY: identity, ISSUER: issuer}
    for name, key in keys.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, under)
        write_durably(folder / name, pem, mode=0o600)


def read_signing_key(folder: Path, *passphrases: Passphrase | None) -> SigningKey:
    """The identity key, also as its seed in hex, which earlier versions wrote.

    It has to be under one of the `passphrases`, of which None means unencrypted. Raises
    ConfigError.
    """
    path = folder / IDENTITY
    data = _read_secret(path)
    if not data.startswith(b"-----") and None in passphrases:
        try:
            return SigningKey.from_seed(bytes.fromhex(data.decode().strip()))
        except ValueError:
            raise ConfigError(f"{path} isn't an identity key") from None
    key = _opened(path, data, passphrases)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError(f"{path} isn't an identity key")
    return SigningKey.from_seed(key.private_bytes_raw())


def read_issuer_key(
    folder: Path, *passphrases: Passphrase | None
) -> ec.EllipticCurvePrivateKey:
    """The issuer's key; the rest as `read_signing_key`."""
    path = folder / ISSUER
    key = _opened(path, _read_secret(path), passphrases)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} isn't an issuer's key")
    return key


def _opened(
    path: Path, data: bytes, passphrases: tuple[Passphrase | None, ...]
) -> object:
    given = [each.content for each in passphrases if each is not None]
    if not data.startswith(_ENCRYPTED):
        if None not in passphrases:
            raise ConfigError(
                f"a passphrase is given, and {path} isn't encrypted: run fedit silo encrypt "
                "or fedit aggregator encrypt"
            )
        return _parsed(data, None, f"{path} isn't a private key")
    if not given:
        raise ConfigError(
            f"{path} is encrypted: name the passphrase's file as 'passphrase_file', or hand "
            "it over as the systemd credential fedit-passphrase"
        )
    refusal = f"the passphrase doesn't open {path}"
    for content in given[:-1]:
        try:
            return _parsed(data, content, refusal)
        except ConfigError:
            continue
    return _parsed(data, given[-1], refusal)


def _parsed(data: bytes, passphrase: bytes | None, refusal: str) -> object:
    try:
        return load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # `from None`: the text of a parser's error could quote the key.
        raise ConfigError(refusal) from None


def _read_secret(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(
            f"{path} has mode {mode:04o}, so others may read it; run chmod 600 on it"
        )
    return read_file(path, "key file", limit=64 << 10)
