"""Disks that are full, read-only or broken, under a silo's process.

The process ends with one sentence and status 1 and says nothing more to anybody: what it
couldn't write it hasn't done. When the disk is sound again, the next process goes on.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults.power import Disk
from faults.process_federation import Nursery, Story, tell
from faults.promises import Promises
from faults.syscalls import AFTER, BEFORE, FULL, READ_ONLY, Fate, Kind, kinds, record_of
from faults.verdict import charged, check, look

SYNCS = kinds(Kind.SYNC)
KILLED = -signal.SIGKILL

# One sync fails, and those that follow succeed: the kernel has dropped what it couldn't
# write, and tells nobody twice.
BROKEN = Fate(fail_kinds=SYNCS, fail_error=errno.EIO, fail_times=1)

SENTENCES = {"full": "is full", "read_only": "readonly|open", "broken": "I/O error"}
DISKS = {"full": FULL, "read_only": READ_ONLY, "broken": BROKEN}
CASES = [
    ("full", "admit"),
    ("full", "reserve"),
    ("full", "update"),
    ("full", "mask"),
    ("full", "reveal"),
    ("full", "close"),
    ("read_only", "reserve"),
    ("read_only", "mask"),
    ("broken", "reserve"),
    ("broken", "mask"),
    ("broken", "reveal"),
    ("broken", "confirm"),
]
CHARGED = {"admit": {}, "reserve": {}}  # by then; in every later step round 1 is


def at(step: str, disk: Fate, nth: int = 1) -> Fate:
    return replace(disk, step=step, fail_from=nth)


def assert_one_sentence(story: Story, *words: str) -> None:
    """It ended with status 1 and one line that names the file and says what is wrong."""
    report = story.reports[0]
    assert report.status == 1, report.error
    assert "\n" not in report.error
    assert str(story.home) in report.error, report.error
    assert any(word in report.error for word in words), report.error


def assert_silent_after(story: Story) -> None:
    """Whatever it said was safe by then, on a disk that forgets what wasn't synced."""
    disk, promises = Disk(story.home), Promises(story)
    for call in record_of(story.record(1)):
        disk.take(call)
        promises.take(call)
        if call.kind in (Kind.SEND, Kind.MARK):
            disk.cut(None).write_to(story.outside / "left")
            promises.hold(story.outside / "left" / "state")


@pytest.mark.parametrize(("kind", "step"), CASES)
async def test_a_disk_that_fails(
    nursery: Nursery, tmp_path: Path, kind: str, step: str
) -> None:
    seen: list[dict[int, int]] = []

    def between(story: Story, life: int) -> None:
        seen.append(dict(charged(look(story, life))))

    fates = [at(step, DISKS[kind])]
    # Where the others have revealed and it can't, they skip the round in the end.
    story = await tell(
        nursery, tmp_path, fates, silos=3, between=between, restarts=True,
        hasty=step == "reveal",
    )  # fmt: skip
    assert story.reports[0].failed >= 1
    assert_one_sentence(story, *SENTENCES[kind].split("|"))
    assert_silent_after(story)
    assert seen == [CHARGED.get(step, {1: 1})]
    check(story)
    assert story.ends[1:] == [0], story.reports


# The files that a commit syncs: its rollback journal, the file, and twice the folder.
SYNCED = [("-journal", 1), ("journal.sqlite", 1), ("/state", 1), ("/state", 2)]


async def test_every_sync_of_a_charge_that_fails_ends_it(
    nursery: Nursery, tmp_path: Path
) -> None:
    """None is tried again, and nothing is sampled. SQLite itself passes over one, of the
    folder when the rollback journal is new. The folder's sync in the end makes up for it:
    a cut between the two may damage the file, which is refused then, but no charge that
    was relied on is lost."""
    ended = []
    for name, nth in SYNCED:
        broken = at("reserve", BROKEN, nth)
        fates = [replace(broken, fail_name=name)]
        folder = tmp_path / f"{nth}{name.strip('/')}"
        story = await tell(nursery, folder, fates, silos=3, restarts=True)
        assert story.reports[0].failed == 1
        if story.reports[0].status:
            assert_one_sentence(story, "I/O error", "failed under")
            assert (1, 1) not in story.sampled
            ended.append(name)
        assert_silent_after(story)
        check(story)
        assert story.ends[-1] == 0, story.reports
    assert set(ended) == {name for name, _ in SYNCED}


@pytest.mark.parametrize("file_bytes", [512, 20_000])
async def test_a_file_that_may_not_grow(
    nursery: Nursery, tmp_path: Path, file_bytes: int
) -> None:
    """The kernel's own limit, without our hand in it."""
    fates = [Fate(file_bytes=file_bytes)]
    story = await tell(nursery, tmp_path, fates, silos=3, restarts=True)
    assert_one_sentence(story, "I/O error", "File too large")
    check(story)
    assert story.ends == [1, 0], story.reports


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_small_disk(nursery: Nursery, tmp_path: Path, small_disk: Path) -> None:
    """A real one, nearly full from the beginning."""
    (small_disk / "ballast").write_bytes(bytes(36_000))
    story = await tell(
        nursery, tmp_path / "run", [Fate()], silos=3, restarts=True, home=small_disk,
        between=lambda story, life: (small_disk / "ballast").unlink(),
    )  # fmt: skip
    assert_one_sentence(story, "is full", "No space left")
    check(story)
    assert story.ends == [1, 0], story.reports


async def test_a_folder_that_became_read_only(nursery: Nursery, tmp_path: Path) -> None:
    """Between two starts: the second is over before it connects."""
    fates = [Fate(step="mask", at=kinds(Kind.UNLINK), how=AFTER), READ_ONLY]
    story = await tell(nursery, tmp_path, fates, silos=3, restarts=True)
    assert story.ends == [KILLED, 1, 0], story.reports
    assert_one_sentence(story, "Read-only file system")
    assert not [c for c in record_of(story.record(2)) if c.kind is Kind.SEND]
    check(story)


async def test_killed_while_the_disk_is_full(nursery: Nursery, tmp_path: Path) -> None:
    """It dies as it takes back what it couldn't write."""
    fates = [replace(at("mask", FULL), at=kinds(Kind.UNLINK), how=BEFORE)]
    story = await tell(nursery, tmp_path, fates, silos=3)
    check(story)
    assert story.ends[-1] == 0, story.reports
