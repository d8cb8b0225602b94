"""The power is cut: what wasn't synced is lost, or kept in part, in any order.

The disk is a model, fed with the calls that a silo's process really made. Wherever the
cut comes, the books open, every tuning that began is charged, and whatever was said has
its fuse: the silo that starts again says the same thing or nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from faults.power import Disk
from faults.process_federation import TESTS, Nursery, Story, tell
from faults.promises import Promises
from faults.syscalls import AFTER, Call, Fate, Kind, kinds, library, record_of
from faults.verdict import check

from fedit_secure.errors import StorageError
from fedit_secure.federation.durable import append_durably, make_folder
from fedit_secure.storage.journal import Journal

SEED = 5
CHANCES = 160  # cuts that keep a part; those that keep nothing are tried at every point
HELD = (Kind.SEND, Kind.MARK, Kind.SYNC)  # whatever comes after these is lost alike


def lives(story: Story) -> list[list[Call]]:
    """The calls of each process."""
    return [record_of(story.record(n)) for n in range(1, len(story.ends) + 1)]


@pytest.fixture
def image() -> Iterator[Path]:
    """A folder for what is left of a disk; in memory, where there is such a file system:
    the books that start on it sync, and hundreds of them do."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path) / "left"


def hold(story: Story, image: Path, from_life: int = 1) -> int:
    """Cut the power at every point of a story, or of its later lives; returns at how
    many."""
    disk, promises, cuts = Disk(story.home), Promises(story), 0
    for number, calls in enumerate(lives(story), 1):
        disk.restart()
        promises.restart()
        tried = set(Random(SEED).sample(range(len(calls)), min(CHANCES, len(calls))))
        for place, call in enumerate(calls):
            disk.take(call)
            promises.take(call)
            if number < from_life:
                continue
            chances = [None] * (call.kind in HELD)
            chances += [Random(f"{SEED}/{place}")] * (place in tried)
            for chance in chances:
                disk.cut(chance).write_to(image)
                promises.hold(image / "state")
                cuts += 1
    assert promises.sampled
    assert promises.said
    return cuts


async def test_power_cut_anywhere(
    nursery: Nursery, tmp_path: Path, image: Path
) -> None:
    story = await tell(nursery, tmp_path, [], silos=3)
    check(story)
    assert hold(story, image) > 300


@pytest.mark.parametrize("step", ["reserve", "reveal"])
async def test_power_cut_after_a_crash(
    nursery: Nursery, tmp_path: Path, image: Path, step: str
) -> None:
    """Killed when the commit was done and its folder not yet synced; the process that
    follows reads it, acts on it, and then the power goes."""
    fates = [Fate(step=step, at=kinds(Kind.UNLINK), how=AFTER)]
    story = await tell(nursery, tmp_path, fates, silos=3)
    check(story)
    assert len(story.ends) == 2
    assert hold(story, image, from_life=2) > 150


WRITES = """
import os, sys
from pathlib import Path
from faults.syscalls import AFTER, Fate, Kernel, Kind, kinds
from fedit_secure.storage.journal import Journal

home, record, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
kernel = Kernel()
fate = Fate(step=what, at=kinds(Kind.UNLINK), how=AFTER)
kernel.begin(home, os.open(record, os.O_WRONLY | os.O_CREAT, 0o600), fate)
with Journal.open(home / "journal.sqlite", create=what == "write") as journal:
    if what == "write":
        journal.commit(population="p", expected_sequence=0, entries=(b"1",))
        kernel.arm(fate)
        journal.commit(population="p", expected_sequence=1, entries=(b"2",))
    kernel.mark(f"read {len(journal.ledger('p'))}")
"""


def test_what_a_killed_process_wrote_is_safe_before_it_is_read(tmp_path: Path) -> None:
    """Else a silo says again what it finds signed, and after the cut knows nothing of it:
    it would void what it revealed."""
    home = tmp_path / "home"
    home.mkdir()
    disk, read = Disk(home), b""
    for what in ("write", "read"):
        path = os.pathsep.join([str(TESTS), *sys.path])
        env = {**os.environ, "LD_PRELOAD": str(library()), "PYTHONPATH": path}
        command = [sys.executable, "-c", WRITES, home, tmp_path / what, what]
        subprocess.run(command, env=env, check=False)
        disk.restart()
        for call in record_of(tmp_path / what):
            disk.take(call)
            if call.kind is Kind.MARK:
                read = call.one
                disk.cut(None).write_to(tmp_path / "cut")
    assert read == b"read 2"  # the first was killed after the commit had come about
    with Journal.open(tmp_path / "cut" / "journal.sqlite") as journal:
        assert journal.ledger("p") == (b"1", b"2")


def test_the_model_loses_what_was_not_synced(tmp_path: Path) -> None:
    def call(
        kind: Kind, fd: int = -1, at: int = 0, one: object = b"", two: object = b""
    ):
        names = (
            os.fsencode(tmp_path / x) if isinstance(x, str) else x for x in (one, two)
        )
        return Call(kind, fd, at, *names)  # type: ignore[arg-type]

    disk = Disk(tmp_path)
    disk.take(call(Kind.OPEN, 3, os.O_CREAT, "a"))
    disk.take(call(Kind.WRITE, 3, 0, b"one"))
    disk.take(call(Kind.SYNC, 3))
    assert disk.cut(None).files() == {}  # its content is safe, and its name isn't
    disk.take(call(Kind.OPEN, 4, 0, ""))
    disk.take(call(Kind.SYNC, 4))
    assert disk.cut(None).files() == {"a": b"one"}
    disk.take(call(Kind.WRITE, 3, 0, b"two"))
    disk.take(call(Kind.RENAME, one="a", two="b"))
    assert disk.cut(None).files() == {"a": b"one"}
    ends = {tuple(disk.cut(Random(n)).files().items()) for n in range(40)}
    assert ends == {((name, data),) for name in "ab" for data in (b"one", b"two")}
    disk.take(call(Kind.SYNC, 3))
    disk.take(call(Kind.TRUNCATE, 3, 1))
    assert disk.cut(None).files() == {"a": b"two"}
    assert disk.saved().files() == {"b": b"t"}


def test_a_folder_is_made_with_its_name(tmp_path: Path, monkeypatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    make_folder(tmp_path / "a" / "b")
    assert synced == [p.stat().st_ino for p in (tmp_path, tmp_path / "a")]
    make_folder(tmp_path / "a" / "b")  # whoever made it may have died too soon
    assert synced[2:] == [(tmp_path / "a").stat().st_ino]
    append_durably(tmp_path / "a" / "log", b"1")
    append_durably(tmp_path / "a" / "log", b"2")
    log, above = (p.stat().st_ino for p in (tmp_path / "a" / "log", tmp_path / "a"))
    assert synced[3:] == [log, above, log]
    with pytest.raises(StorageError, match="log can't be made: File exists"):
        make_folder(tmp_path / "a" / "log")
