"""The journal: all or nothing, once and for ever, and never from a damaged file."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedit_secure.errors import FuseBlown, StorageError
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.storage.journal import Journal

CHARTER = b"c" * 32
ONE = (b'{"n":1}', b'{"n":2}')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, create=True) as journal:
        yield journal


def head(sequence: int, fill: bytes = b"h") -> LedgerHead:
    return LedgerHead("patients", sequence, fill * 32)


def fill(journal: Journal) -> None:
    journal.commit(
        population="patients",
        expected_sequence=0,
        entries=ONE,
        life=(CHARTER, None, b"fresh"),
        records={"reveal/1": b"signed"},
        notes={"certificate": b"first"},
        peer_heads={"east": head(3)},
        receipt=b"receipt",
    )
    journal.commit(update=(CHARTER, 1, b"d" * 32, b"\x00\x01" * 500))


def contents(journal: Journal) -> tuple[object, ...]:
    return (
        {name: journal.ledger(name) for name in journal.populations()},
        journal.life(CHARTER),
        journal.record("reveal/1"),
        journal.note("certificate"),
        journal.receipt("patients"),
        journal.peer_heads(),
        journal.load_update(CHARTER, 1),
    )


FILLED = (
    {"patients": ONE},
    b"fresh",
    b"signed",
    b"first",
    b"receipt",
    {("east", "patients"): head(3)},
    (b"d" * 32, b"\x00\x01" * 500),
)


def test_everything_is_there_after_a_restart(path: Path) -> None:
    with Journal.open(path, create=True) as journal:
        assert contents(journal) == ({}, None, None, None, None, {}, None)
        fill(journal)
        assert contents(journal) == FILLED
    with Journal.open(path) as journal:
        assert contents(journal) == FILLED
    assert path.stat().st_mode & 0o077 == 0


def test_a_missing_journal_is_noticed(path: Path) -> None:
    with pytest.raises(StorageError, match="there is no journal"):
        Journal.open(path)
    assert not path.exists()
    with pytest.raises(StorageError, match="there is no journal"):
        Journal.open(path, create=True, read_only=True)


# ---------------------------------------------------------------------- compare-and-swap


def test_a_ledger_that_went_on_refuses_the_commit(journal: Journal) -> None:
    fill(journal)
    for expected in (0, 1, 3):
        with pytest.raises(StorageError, match=f"2 entries, not the {expected}"):
            journal.commit(
                population="patients", expected_sequence=expected, entries=(b"x",)
            )
    journal.commit(population="patients", expected_sequence=2, entries=(b"x",))
    journal.commit(population="staff", expected_sequence=0, entries=(b"y",))
    assert journal.ledger("patients") == (*ONE, b"x")
    assert journal.ledger("staff") == (b"y",)
    assert journal.populations() == ("patients", "staff")


def test_a_life_that_went_on_blows_the_fuse(journal: Journal) -> None:
    fill(journal)
    for expected in (None, b"masked", b""):
        with pytest.raises(FuseBlown, match="went on"):
            journal.commit(life=(CHARTER, expected, b"revealed"))
    journal.commit(life=(CHARTER, b"fresh", b"masked"))
    with pytest.raises(FuseBlown):
        journal.commit(life=(CHARTER, b"fresh", b"masked"))
    assert journal.life(CHARTER) == b"masked"
    assert journal.life(b"o" * 32) is None


def test_a_record_is_written_once(journal: Journal) -> None:
    fill(journal)
    journal.commit(records={"reveal/1": b"signed"})
    with pytest.raises(FuseBlown, match="'reveal/1' was written with other bytes"):
        journal.commit(records={"reveal/1": b"others"})
    assert journal.record("reveal/1") == b"signed"


def test_a_note_is_replaced(journal: Journal) -> None:
    fill(journal)
    journal.commit(notes={"certificate": b"second"})
    assert journal.note("certificate") == b"second"


@pytest.mark.parametrize("bad", [head(2), head(3, b"x")])
def test_ledger_rollback_and_ledger_fork_of_a_peer(
    journal: Journal, bad: LedgerHead
) -> None:
    fill(journal)
    with pytest.raises(StorageError, match="'east' for 'patients' went back or forked"):
        journal.commit(peer_heads={"east": bad})
    journal.commit(peer_heads={"east": head(3), "west": head(1)})
    journal.commit(peer_heads={"east": head(4, b"x")})
    assert journal.peer_heads() == {
        ("east", "patients"): head(4, b"x"),
        ("west", "patients"): head(1),
    }


def test_one_refusal_undoes_the_whole_commit(journal: Journal) -> None:
    fill(journal)
    good = {"population": "patients", "expected_sequence": 2, "entries": (b"x",)}
    for bad in (
        {"life": (CHARTER, b"other", b"masked")},
        {"records": {"new": b"1", "reveal/1": b"others"}},
        {"peer_heads": {"west": head(9), "east": head(0)}},
    ):
        with pytest.raises(StorageError):
            journal.commit(**good, notes={"certificate": b"second"}, **bad)
        assert contents(journal) == FILLED
        assert journal.record("new") is None


def test_a_commit_needs_its_population_and_sequence(journal: Journal) -> None:
    with pytest.raises(ValueError, match="belong to a population"):
        journal.commit(entries=(b"x",))
    with pytest.raises(ValueError, match="belong to a population"):
        journal.commit(receipt=b"x")
    with pytest.raises(ValueError, match="expected sequence"):
        journal.commit(population="patients", entries=(b"x",))


def test_entries_cant_be_edited_or_deleted(journal: Journal) -> None:
    fill(journal)
    for statement in ("UPDATE entries SET value = x'00'", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="ledger entries stay"):
            journal._db.execute(statement)
    assert contents(journal) == FILLED


def test_updates_are_kept_until_their_round_closes(journal: Journal) -> None:
    journal.commit(update=(CHARTER, 1, b"d" * 32, b"one"))
    journal.commit(update=(CHARTER, 1, b"d" * 32, b"one"))
    with pytest.raises(FuseBlown, match="round 1 has another update"):
        journal.commit(update=(CHARTER, 1, b"e" * 32, b"two"))
    journal.commit(update=(CHARTER, 2, b"e" * 32, b"two"))
    journal.commit(update=(b"o" * 32, 1, b"f" * 32, b"three"))
    journal.commit(over=(CHARTER, 1))
    assert journal.load_update(CHARTER, 1) is None
    assert journal.load_update(CHARTER, 2) == (b"e" * 32, b"two")
    assert journal.load_update(b"o" * 32, 1) == (b"f" * 32, b"three")


def test_a_dropped_update_leaves_no_trace_in_the_file(
    journal: Journal, path: Path
) -> None:
    secret = bytes(range(1, 256)) * 64
    journal.commit(update=(CHARTER, 1, b"d" * 32, secret))
    assert secret[:64] in path.read_bytes()
    journal.commit(over=(CHARTER, 1))
    assert secret[:64] not in path.read_bytes()


# ------------------------------------------------------------------------ damaged files


def closed(path: Path) -> Path:
    with Journal.open(path, create=True) as journal:
        fill(journal)
    return path


def write_text(path: Path) -> None:
    path.write_text("not a journal\n" * 400)


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_another_database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE entries (x)")
    connection.close()


def newer_format(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=2")
    connection.close()


def edited(statement: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute("DROP TRIGGER entries_stay")
        connection.execute("DROP TRIGGER entries_last")
        connection.execute(statement)
        connection.commit()
        connection.close()

    return edit


DAMAGE = {
    "text": (write_text, "can't be used"),
    "empty": (write_nothing, "isn't a journal"),
    "another_database": (write_another_database, "isn't a journal"),
    "newer": (newer_format, "has format 2, not 1"),
    "entry_deleted": (
        edited("DELETE FROM entries WHERE sequence = 1"),
        "lacks entry 1 of the ledger of 'patients'",
    ),
    "entry_edited": (
        edited("UPDATE entries SET value = x'7b7d' WHERE sequence = 2"),
        "the entry '2 patients' in .* is damaged",
    ),
    "entries_swapped": (
        edited("UPDATE entries SET sequence = 3 - sequence + 10"),
        "the entry '1. patients' in .* is damaged",
    ),
    "population_renamed": (
        edited("UPDATE entries SET population = 'staff'"),
        "the entry '1 staff' in .* is damaged",
    ),
    "life_rolled_back": (
        edited("UPDATE cells SET value = x'00' WHERE kind = 'life'"),
        "the life '6363.*' in .* is damaged",
    ),
    "record_moved": (
        edited("UPDATE cells SET key = 'reveal/2' WHERE kind = 'record'"),
        "the record 'reveal/2' in .* is damaged",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_journals_are_refused(path: Path, how: str) -> None:
    damage, match = DAMAGE[how]
    damage(closed(path))
    with pytest.raises(StorageError, match=match):
        Journal.open(path)
    # The refusal let go of the lock, and changed nothing.
    with pytest.raises(StorageError, match=match):
        Journal.open(path)


def test_every_truncation_is_refused(path: Path) -> None:
    data = closed(path).read_bytes()
    cuts = {*range(0, len(data), 4096), 1, 99, 100, len(data) - 1}
    for cut in sorted(cuts - {len(data)}):
        path.write_bytes(data[:cut])
        with pytest.raises(StorageError):
            Journal.open(path).close()


def test_a_flipped_bit_is_refused_or_changes_nothing(path: Path) -> None:
    data = closed(path).read_bytes()
    chance = random.Random(7)
    refused = 0
    for _ in range(250):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            with Journal.open(path) as journal:
                assert contents(journal) == FILLED
        except StorageError:
            refused += 1
    assert refused > 20


def test_a_damaged_update_is_noticed_when_it_is_loaded(path: Path) -> None:
    for column in ("value", "name"):
        edited(f"UPDATE updates SET {column} = x'00'")(closed(path))
        with (
            Journal.open(path) as journal,
            pytest.raises(StorageError, match=r"update of round 1 .* damaged"),
        ):
            journal.load_update(CHARTER, 1)
        path.unlink()


# ----------------------------------------------------------- two processes, full disks


def test_two_daemons_on_one_state_folder(journal: Journal, path: Path) -> None:
    with pytest.raises(StorageError, match="another process is using"):
        Journal.open(path)
    code = (
        "import sys; from pathlib import Path;"
        "from fedit_secure.storage.journal import Journal;"
        "Journal.open(Path(sys.argv[1]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert "two daemons can't share a state folder" in other.stderr
    journal.close()
    Journal.open(path).close()


def test_a_running_silos_journal_can_be_looked_at(journal: Journal, path: Path) -> None:
    fill(journal)
    with Journal.open(path, read_only=True) as seen:
        assert contents(seen) == FILLED
        with pytest.raises(StorageError, match="readonly"):
            seen.commit(notes={"certificate": b"x"})
        journal.commit(notes={"certificate": b"second"})
        assert seen.note("certificate") == b"second"


def test_a_full_disk_leaves_the_journal_as_it_was(journal: Journal) -> None:
    fill(journal)
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageError, match="full"):
        journal.commit(update=(CHARTER, 2, b"e" * 32, bytes(100_000)))
    with pytest.raises(StorageError, match="full"):
        journal.commit(
            population="patients", expected_sequence=2, entries=(bytes(60_000),) * 9
        )
    assert contents(journal) == FILLED
    journal._db.execute("PRAGMA max_page_count=100000")
    journal.commit(population="patients", expected_sequence=2, entries=(b"x",))


def test_a_disk_that_failed_is_not_asked_again(journal: Journal, path: Path) -> None:
    """What the kernel couldn't sync it has dropped, and the next sync succeeds."""
    fill(journal)
    real = journal._db

    class Failing:
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
            if statement == "COMMIT":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            return real.execute(statement, *values)

        in_transaction = True

    journal._db = Failing()  # type: ignore[assignment]
    with pytest.raises(StorageError, match="disk I/O error"):
        journal.commit(notes={"certificate": b"second"})
    journal._db = real
    for again in (
        lambda: journal.commit(notes={"certificate": b"third"}),
        lambda: journal.note("certificate"),
    ):
        with pytest.raises(StorageError, match=r"failed under .*disk I/O error"):
            again()
    journal.close()
    with Journal.open(path) as fresh:
        assert contents(fresh) == FILLED


def test_a_folder_that_cant_be_written_to() -> None:
    """Root may write everywhere, so the test steps down while it tries."""
    folder = Path(tempfile.mkdtemp())
    try:
        closed(folder / "journal.sqlite")
        (folder / "journal.sqlite.lock").unlink()
        folder.chmod(0o555)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(
                StorageError, match="can't be written: Permission denied"
            ):
                Journal.open(folder / "journal.sqlite")
            with pytest.raises(StorageError, match="can't be written"):
                Journal.open(folder / "new.sqlite", create=True)
        finally:
            os.seteuid(was)
        assert not (folder / "new.sqlite").exists()
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        Journal.open(tmp_path / "no" / "journal.sqlite", create=True)


WRITER = """
import sys
from pathlib import Path
from fedit_secure.storage.journal import Journal

journal = Journal.open(Path(sys.argv[1]), create=True)
life = None
for n in range(10**9):
    after = str(n).encode()
    journal.commit(
        population="p", expected_sequence=n, entries=(after,), life=(bytes(32), life, after)
    )
    life = after
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def test_killed_in_the_middle_of_commits(path: Path) -> None:
    """What was reported as committed is there, in whole transactions."""
    for wait in (20, 57, 101):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(wait):
                last = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            last = max(
                [last, *(int(line) for line in writer.stdout if line[-1] == "\n")]
            )
        with Journal.open(path) as journal:
            entries = journal.ledger("p")
            assert entries == tuple(str(n).encode() for n in range(len(entries)))
            assert len(entries) > last
            assert journal.life(bytes(32)) == entries[-1]
        path.unlink()
