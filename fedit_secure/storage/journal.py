"""What a silo must never forget or undo, in one SQLite file.

Ledger entries and fuses change together in one transaction, by compare-and-swap, and
are on the disk before `commit` returns. Every row carries a digest over its place and
content, checked at every open: a file that was damaged, cut or edited is refused.
Nothing here is secret; no key, seed or share of a round may be handed to it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from fedit_secure.errors import FuseBlown, StorageError
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.secagg.transcript import digest, u64
from fedit_secure.storage.journal_file import (
    APPLICATION,
    VERSION,
    connect,
    create_file,
    settle,
    take_lock,
    translated,
)


class Journal:
    """One silo's journal; `open` it, and `close` it or use it in a `with`.

    Any thread may call it. Every method raises StorageError where the file can't be
    read or written; the file is then as it was before the call. After an error of the
    disk itself nobody can know that, so every later call raises too: a sync that failed
    is never tried again as if it could still succeed. The next `open` looks anew.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, held: ExitStack
    ) -> None:
        self.path = path
        self._db = connection
        self._held = held
        self._mutex = threading.Lock()
        self._failed: str | None = None

    # ------------------------------------------------------------------ open and close

    @classmethod
    def open(
        cls, path: Path, *, create: bool = False, read_only: bool = False
    ) -> Journal:
        """Open and verify a journal, and keep every other process from writing to it.

        Args:
            path: the file; `<path>.lock` beside it is the lock.
            create: make an empty journal if there is none. Never the default: a lost
                ledger must be noticed, not replaced.
            read_only: take no lock and write nothing, to look at a running silo's.

        Raises:
            StorageError: there is none; it is damaged, in use, or has a second name;
                or the folder can't be written to.
        """
        # By whatever name it was called: the lock lies where the file does.
        path = path.resolve()
        with ExitStack() as held:
            if not read_only:
                held.callback(os.close, take_lock(path))
            if create and not read_only and not path.exists():
                create_file(path)
            if not path.is_file():
                raise StorageError(f"there is no journal {path}")
            if path.stat().st_nlink > 1 and not read_only:
                raise StorageError(
                    f"the journal {path} has a second name: whoever opens it by that one "
                    "is locked out by nothing"
                )
            connection = connect(path, "ro" if read_only else "rw")
            held.callback(connection.close)
            journal = cls(path, connection, held)
            journal.verify()
            if not read_only:
                settle(path)
            journal._held = held.pop_all()
        return journal

    def close(self) -> None:
        """Close the file and let go of the lock, once no thread is at a commit any more."""
        with self._mutex:
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def verify(self) -> None:
        """Check the whole file: its structure, its format, and every row's digest."""
        with self._reading() as db:
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION:
                raise StorageError(f"{self.path} isn't a journal of fedit-secure")
            if version != VERSION:
                raise StorageError(f"{self.path} has format {version}, not {VERSION}")
            findings = [row[0] for row in db.execute("PRAGMA integrity_check(1)")]
            if findings != ["ok"]:
                first = findings[0].removeprefix("*** in database main ***").split()
                raise StorageError(
                    f"the journal {self.path} is damaged: {' '.join(first)}"
                )
            expected: dict[str, int] = {}
            for population, sequence, value, seal in db.execute(
                "SELECT * FROM entries ORDER BY population, sequence"
            ):
                self._unsealed("entry", f"{sequence} {population}", value, seal)
                expected[population] = expected.get(population, 0) + 1
                if sequence != expected[population]:
                    raise StorageError(
                        f"the journal {self.path} lacks entry {expected[population]} of "
                        f"the ledger of {population!r}"
                    )
            for kind, key, value, seal in db.execute("SELECT * FROM cells"):
                self._unsealed(kind, key, value, seal)

    # --------------------------------------------------------------------- what is read

    def populations(self) -> tuple[str, ...]:
        """The populations that have a ledger here."""
        with self._reading() as db:
            rows = db.execute("SELECT DISTINCT population FROM entries ORDER BY 1")
            return tuple(row[0] for row in rows)

    def ledger(self, population: str) -> tuple[bytes, ...]:
        """The entries of a population's ledger, from the first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT sequence, value, digest FROM entries WHERE population = ?"
                " ORDER BY sequence",
                (population,),
            )
            return tuple(
                self._unsealed("entry", f"{sequence} {population}", value, seal)
                for sequence, value, seal in rows
            )

    def life(self, charter: bytes) -> bytes | None:
        """The life of the silo's update under a charter, as it was last committed."""
        return self._cell("life", charter.hex())

    def record(self, key: str) -> bytes | None:
        """What was recorded under a key, once and for ever."""
        return self._cell("record", key)

    def note(self, key: str) -> bytes | None:
        """What was last noted under a key."""
        return self._cell("note", key)

    def receipt(self, population: str) -> bytes | None:
        """The aggregator's last receipt for a population's ledger head."""
        return self._cell("receipt", population)

    def peer_heads(self) -> dict[tuple[str, str], LedgerHead]:
        """The last ledger head seen of each (peer, population)."""
        with self._reading() as db:
            rows = db.execute("SELECT key, value, digest FROM cells WHERE kind='head'")
            return {
                _names(key): _head(key, self._unsealed("head", key, value, seal))
                for key, value, seal in rows
            }

    # ------------------------------------------------------------------ what is written

    def commit(
        self,
        *,
        population: str | None = None,
        expected_sequence: int | None = None,
        entries: Sequence[bytes] = (),
        life: tuple[bytes, bytes | None, bytes] | None = None,
        records: Mapping[str, bytes] | None = None,
        notes: Mapping[str, bytes] | None = None,
        peer_heads: Mapping[str, LedgerHead] | None = None,
        receipt: bytes | None = None,
        update: tuple[bytes, int, bytes, bytes] | None = None,
        over: tuple[bytes, int] | None = None,
    ) -> None:
        """Change all of this or none of it; on the disk when it returns.

        Args:
            population: whose ledger `expected_sequence`, `entries` and `receipt` mean.
            expected_sequence: how many entries it has now.
            entries: what to append to it.
            life: (charter digest, the life as it is now or None, the next).
            records: kept for ever; a key that holds other bytes blows the fuse.
            notes: replaced freely.
            peer_heads: by peer; none may go back or fork.
            receipt: replaces the population's last.
            update: (charter digest, round, the update's digest, float32 bytes), to keep
                until its round is over.
            over: (charter digest, round): the updates of this round and of those before
                it are forgotten; zeros replace them.

        Raises:
            FuseBlown: the life isn't the expected one, a record exists already, or the
                round has another update.
            StorageError: the ledger has another length, a peer's head goes back or
                forks, or the file can't be written.
        """
        if (entries or receipt is not None) and population is None:
            raise ValueError("entries and a receipt belong to a population")
        if entries and expected_sequence is None:
            raise ValueError("entries are appended at an expected sequence")
        with self._writing() as db:
            if population is not None and expected_sequence is not None:
                self._append(db, population, expected_sequence, entries)
            if life is not None:
                self._swap_life(db, *life)
            for key, value in (records or {}).items():
                if self._get(db, "record", key) not in (None, value):
                    raise FuseBlown(f"the record {key!r} was written with other bytes")
                _put(db, "record", key, value)
            for key, value in (notes or {}).items():
                _put(db, "note", key, value)
            for peer, head in (peer_heads or {}).items():
                self._advance_head(db, peer, head)
            if receipt is not None and population is not None:
                _put(db, "receipt", population, receipt)
            if update is not None:
                _keep_update(db, *update)
            if over is not None:
                db.execute("DELETE FROM updates WHERE charter = ? AND round <= ?", over)

    def load_update(self, charter: bytes, round: int) -> tuple[bytes, bytes] | None:
        """(digest, float32 bytes) of a round's update, if it is kept here."""
        with self._reading() as db:
            row = db.execute(
                "SELECT name, value, digest FROM updates"
                " WHERE charter = ? AND round = ?",
                (charter, round),
            ).fetchone()
        if row is None:
            return None
        name, data, seal = row
        if _update_seal(charter, round, name, data) != seal:
            raise StorageError(f"the update of round {round} in {self.path} is damaged")
        return name, data

    # -------------------------------------------------------------------------- details

    def _append(
        self,
        db: sqlite3.Connection,
        population: str,
        expected: int,
        entries: Sequence[bytes],
    ) -> None:
        (sequence,) = db.execute(
            # Contiguous from 1, as `verify` has found: so this is their number, without
            # a look at each.
            "SELECT coalesce(max(sequence), 0) FROM entries WHERE population = ?",
            (population,),
        ).fetchone()
        if sequence != expected:
            raise StorageError(
                f"the ledger of {population!r} has {sequence} entries, not the "
                f"{expected} that this step was decided on"
            )
        for number, entry in enumerate(entries, sequence + 1):
            seal = _seal("entry", f"{number} {population}", entry)
            db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?)",
                (population, number, entry, seal),
            )

    def _swap_life(
        self, db: sqlite3.Connection, charter: bytes, expected: bytes | None, new: bytes
    ) -> None:
        if self._get(db, "life", charter.hex()) != expected:
            raise FuseBlown(
                "this update's life went on since this step was decided on: the step "
                "was taken already, or another process took one"
            )
        _put(db, "life", charter.hex(), new)

    def _advance_head(
        self, db: sqlite3.Connection, peer: str, head: LedgerHead
    ) -> None:
        key = json.dumps([peer, head.population])
        found = self._get(db, "head", key)
        if found is not None:
            known = _head(key, found)
            if head.sequence < known.sequence or (
                head.sequence == known.sequence and head.hash != known.hash
            ):
                raise StorageError(
                    f"the ledger head of {peer!r} for {head.population!r} went back or "
                    f"forked: entry {head.sequence} after {known.sequence}"
                )
        _put(db, "head", key, u64(head.sequence) + head.hash)

    def _cell(self, kind: str, key: str) -> bytes | None:
        with self._reading() as db:
            return self._get(db, kind, key)

    def _get(self, db: sqlite3.Connection, kind: str, key: str) -> bytes | None:
        row = db.execute(
            "SELECT value, digest FROM cells WHERE kind = ? AND key = ?", (kind, key)
        ).fetchone()
        return None if row is None else self._unsealed(kind, key, *row)

    def _unsealed(self, kind: str, key: str, value: bytes, seal: bytes) -> bytes:
        if _seal(kind, key, value) != seal:
            raise StorageError(f"the {kind} {key!r} in {self.path} is damaged")
        return value

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, translated(self.path), self._once():
            yield self._db

    @contextmanager
    def _once(self) -> Iterator[None]:
        if self._failed is not None:
            raise StorageError(
                f"the disk failed under the journal {self.path} ({self._failed}): start "
                "again once it is sound"
            )
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
                self._failed = str(error)
            raise

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, translated(self.path), self._once():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back already, where the disk failed.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _seal(kind: str, key: str, value: bytes) -> bytes:
    return digest("fedit/journal/v1", kind.encode(), key.encode(), value)


def _update_seal(charter: bytes, round: int, name: bytes, data: bytes) -> bytes:
    return digest("fedit/journal-update/v1", charter, u64(round), name, data)


def _put(db: sqlite3.Connection, kind: str, key: str, value: bytes) -> None:
    db.execute(
        "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?)",
        (kind, key, value, _seal(kind, key, value)),
    )


def _keep_update(
    db: sqlite3.Connection, charter: bytes, round: int, name: bytes, data: bytes
) -> None:
    row = db.execute(
        "SELECT name FROM updates WHERE charter = ? AND round = ?", (charter, round)
    ).fetchone()
    if row is None:
        seal = _update_seal(charter, round, name, data)
        values = (charter, round, name, data, seal)
        db.execute("INSERT INTO updates VALUES (?, ?, ?, ?, ?)", values)
    elif row[0] != name:
        raise FuseBlown(f"round {round} has another update already")


def _names(key: str) -> tuple[str, str]:
    peer, population = json.loads(key)
    return peer, population


def _head(key: str, value: bytes) -> LedgerHead:
    _, population = _names(key)
    return LedgerHead(population, int.from_bytes(value[:8], "little"), value[8:])
