"""A silo's process is killed by the kernel around every commit of its books.

SIGKILL comes from below SQLite: before the call that makes a commit hold (the removal of
its rollback journal), after it, and in the middle of what is said next. The process that
follows has only the disk. `make soak` does it at hundreds of random points.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from faults.crashing import ends_of
from faults.process_federation import VICTIM, VOIDED, Nursery, Story, copy_of, tell
from faults.syscalls import AFTER, BEFORE, HALF, Fate, Kind, kinds, record_of
from faults.verdict import charged, check, ledger_in, look

from fedit_secure.errors import StorageError
from fedit_secure.storage.journal import Journal

ALL = ("s0", "s1", "s2")
KILLED = -signal.SIGKILL

BEFORE_IT = Fate(at=kinds(Kind.UNLINK), how=BEFORE)
AFTER_IT = Fate(at=kinds(Kind.UNLINK), how=AFTER)
HALF_SAID = Fate(at=kinds(Kind.SEND), how=HALF)
PLACES = {"before": BEFORE_IT, "after": AFTER_IT, "half_said": HALF_SAID}

# step, place: how often round 1 is charged then, and whose sum it has. Three silos can't
# do without one: an attempt that lost it is repeated, with the same updates.
OUTCOMES = {
    ("reserve", "before"): (1, ALL),
    ("reserve", "after"): (2, ALL),  # nobody can know whether it had begun to sample
    ("update", "before"): (2, ALL),
    ("update", "after"): (1, ALL),
    ("mask", "before"): (1, ALL),
    ("mask", "after"): (1, ALL),
    ("mask", "half_said"): (1, ALL),
    ("reveal", "before"): (1, ()),  # it says void, the others have revealed: no sum
    ("reveal", "after"): (1, ALL),
    ("reveal", "half_said"): (1, ALL),
    ("confirm", "after"): (1, ALL),
    ("close", "before"): (1, ALL),
}


def fate(step: str, place: str) -> Fate:
    chosen = PLACES[place]
    return Fate(step=step, at=chosen.at, how=chosen.how)


def between(story: Story, life: int) -> None:
    look(story, life)


@pytest.mark.parametrize(("step", "place"), OUTCOMES)
async def test_killed(nursery: Nursery, tmp_path: Path, step: str, place: str) -> None:
    charges, names = OUTCOMES[step, place]
    fates, skips = [fate(step, place)], names == ()
    story = await tell(nursery, tmp_path, fates, silos=3, between=between, hasty=skips)
    assert story.ends == [KILLED, 0], story.reports
    check(story)
    assert charged(ledger_in(story.state_folder)) == {1: charges, 2: 1}
    assert (ends_of(story.federation, 1), ends_of(story.federation, 2)) == (names, ALL)


async def test_killed_as_it_renews(nursery: Nursery, tmp_path: Path) -> None:
    """Two others vanished: the attempt is void, and the update enters the next one."""
    fates = [fate("renew", "after")]
    story = await tell(
        nursery, tmp_path, fates, dying=VOIDED, between=between, hasty=True
    )
    assert story.ends == [KILLED, 0], story.reports
    check(story)
    assert charged(ledger_in(story.state_folder)) == {1: 1, 2: 1}
    # Whether it was back for the next attempt or not, that is when its update can enter.
    assert set(ends_of(story.federation, 1) or ()) >= {"s1", "s2", "s3"}
    assert VICTIM in (ends_of(story.federation, 2) or ())


async def test_looked_at_between_death_and_repair(
    nursery: Nursery, tmp_path: Path
) -> None:
    """`fedit budget show` may not repair what was half-written, and says who does."""

    def between(story: Story, life: int) -> None:
        path = copy_of(story, "seen") / "journal.sqlite"
        before = path.read_bytes()
        with pytest.raises(StorageError, match="fedit silo serve puts it right"):
            Journal.open(path, read_only=True)
        assert path.read_bytes() == before
        Journal.open(path).close()
        Journal.open(path, read_only=True).close()

    fates = [fate("reserve", "before")]
    story = await tell(nursery, tmp_path, fates, between=between)
    assert story.ends == [KILLED, 0], story.reports


async def test_killed_again_and_again(nursery: Nursery, tmp_path: Path) -> None:
    """Each time it has charged and not sampled, and the policy allows one such loss: the
    third process refuses, and takes part again in the round that follows."""
    fates = [fate("reserve", "after")] * 2
    story = await tell(nursery, tmp_path, fates, between=between)
    check(story)
    assert story.ends == [KILLED, KILLED, 0], story.reports
    assert charged(ledger_in(story.state_folder)) == {1: 2, 2: 1}
    assert story.sampled == [(2, 3)]
    assert ends_of(story.federation, 1) == ("s1", "s2", "s3")
    assert VICTIM in (ends_of(story.federation, 2) or ())


async def test_every_boundary_is_a_point(nursery: Nursery, tmp_path: Path) -> None:
    """The kernel's record is whole: what it says was done is what lies on the disk, so no
    write passes by it, and every kind of call that changes a file is there."""
    from faults.power import Disk

    story = await tell(nursery, tmp_path, [], silos=3)
    check(story)
    calls = record_of(story.record(1))
    disk = Disk(story.home)
    disk.feed(calls)
    files = [path for path in story.home.rglob("*") if path.is_file()]
    there = {str(p.relative_to(story.home)): p.read_bytes() for p in files}
    assert disk.saved().files() == there
    seen = {call.kind for call in calls}
    assert seen >= {
        Kind.OPEN,
        Kind.WRITE,
        Kind.SYNC,
        Kind.UNLINK,
        Kind.RENAME,
        Kind.SEND,
    }
    changes = {Kind.OPEN, Kind.CLOSE, Kind.MARK}
    assert sum(call.kind not in changes for call in calls) <= story.reports[0].points
