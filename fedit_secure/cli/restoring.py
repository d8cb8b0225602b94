"""What `fedit budget restore` reads, checks and writes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedit_secure.audit.bundle import Bundle
from fedit_secure.cli.standing import identity_of
from fedit_secure.config import SiloConfig, load_policy
from fedit_secure.errors import ConfigError
from fedit_secure.federation.approval import highest_approved, remember
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import read_file, write_durably
from fedit_secure.federation.heads import SignedHead
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.silo.restore import KnownHead, Restored, charge_full_cap, restore
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records

MOST_BYTES = 1 << 32  # of a ledger's copy


@dataclass(frozen=True, slots=True)
class _Here:
    journal: Journal
    charter: Charter
    key: SigningKey


def restore_copy(config: SiloConfig, copy: Path) -> Restored:
    """Writes the entries of a copy, or of a bundle that has one, into the state folder.

    Raises as `silo.restore.restore`; the sentence begins with the file.
    """
    entries, known = _read(copy, config.name)
    with _state(config) as here:
        what = (here.journal, here.charter, config.name, here.key)
        try:
            return restore(*what, entries, known)
        except ConfigError as error:
            raise ConfigError(f"{copy}: {error}") from error


def restore_by_charging(config: SiloConfig, reason: str) -> Restored:
    """Charges the whole cap instead. Raises as `silo.restore.charge_full_cap`."""
    records = load_records(DataSource.model_validate(config.data.model_dump()))
    with _state(config) as here:
        what = (here.journal, here.charter, config.name, here.key)
        prints = commitment(records, here.key)
        return charge_full_cap(*what, load_policy(config.policy), prints, reason)


@contextmanager
def _state(config: SiloConfig) -> Iterator[_Here]:
    """The journal, made if there is none, and locked: no daemon runs beside this."""
    identity, charter = identity_of(config), Charter.load(config.charter)
    charter.check_card(identity.card)
    try:
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"the state folder {config.state} can't be made: {error.strerror}"
        ) from error
    path = config.state / "journal.sqlite"
    with Journal.open(path, create=True) as journal:
        write_durably(
            path.with_name("journal.made"), b"the journal beside this was restored\n"
        )
        # Which epochs were approved is lost too: none before this one comes back.
        if highest_approved(config.state, charter.federation) is None:
            remember(config.state, charter)
        yield _Here(journal, charter, identity.signing)


def _read(copy: Path, name: str) -> tuple[tuple[bytes, ...], KnownHead | None]:
    if copy.is_dir() or zipfile.is_zipfile(copy):
        with Bundle(copy) as bundle:
            lines = bundle.read(f"ledgers/{name}.jsonl", MOST_BYTES)
            signed = bundle.read(f"heads/{name}.json", SignedHead.most_bytes)
        if lines is None:
            raise ConfigError(f"the bundle {copy} has no ledger of silo {name!r}")
    else:
        lines = read_file(copy, "the ledger's copy", limit=MOST_BYTES)
        beside = copy.with_suffix(".head")
        signed = read_file(beside, "the head") if beside.exists() else None
    if not lines.endswith(b"\n"):
        raise ConfigError(f"{copy}: the last line is cut short; copy it again")
    known = None if signed is None else _head(signed, copy, name)
    return tuple(lines[:-1].split(b"\n")), known


def _head(data: bytes, copy: Path, name: str) -> KnownHead:
    signed = SignedHead.from_bytes(data, f"the head beside {copy}")
    if signed.silo != name:
        raise ConfigError(f"the head beside {copy} is of silo {signed.silo!r}")
    counter = signed.countersignature
    return KnownHead(
        LedgerHead(signed.population, signed.sequence, bytes.fromhex(signed.hash)),
        bytes.fromhex(signed.signature),
        None if counter is None else bytes.fromhex(counter),
    )
