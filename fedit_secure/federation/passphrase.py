"""The passphrase under which a party's private keys lie encrypted on its disk."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import read_file
from fedit_secure.secagg.keys import Secret

LEAST_BYTES = 16
"""Of a new one. PKCS#8's key derivation costs a guess next to nothing, so that only
length protects; whoever has a passphrase file can make it random."""

_MOST_BYTES = 1 << 10  # what the library takes


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Passphrase(Secret):
    """Bytes that print as `<redacted>`."""

    content: bytes


def read_passphrase(path: Path, *, own: bool = True) -> Passphrase:
    """The first line of a file.

    With `own` the file is the operator's, and is refused if anybody else may read it; a
    service manager's credential has rights of its own. Raises ConfigError, which never
    quotes it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(
            f"the passphrase file {path} can't be read: {error.strerror}"
        ) from error
    if own and mode & 0o077:
        raise ConfigError(
            f"the passphrase file {path} has mode {mode:04o}, so others may read it; run "
            "chmod 600 on it"
        )
    data = read_file(path, "the passphrase file", limit=_MOST_BYTES)
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    if not line or b"\n" in line or b"\0" in line:
        raise ConfigError(
            f"the passphrase file {path} doesn't hold one line with the passphrase"
        )
    return Passphrase(line)


def read_new_passphrase(path: Path) -> Passphrase:
    """The same of a file whose passphrase is about to be used; refuses a short one."""
    passphrase = read_passphrase(path)
    if len(passphrase.content) < LEAST_BYTES:
        raise ConfigError(
            f"the passphrase in {path} has fewer than {LEAST_BYTES} characters; `openssl "
            "rand -base64 24` makes one"
        )
    return passphrase
