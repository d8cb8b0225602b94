"""Disks that fill up or become read-only under one daemon of a whole federation.

The daemon ends by itself, with status 1 and one sentence that names the file. When there
is room again it goes on, and so do the others: nothing was half-written, no charge is
lost, and the adapter is that of the published sums.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from faults.real_federation import HUB, TESTS, RealFederation
from faults.syscalls import library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SECONDS = 300.0
SILOS, ROUNDS = 4, 3
SILO = "silo-1"
SCHEDULE = {"phase_deadline_seconds": 6.0, "silo_deadline_seconds": 12}
SENTENCES = {
    "full": ("is full", "No space left"),
    # The second one is SQLite's, which can't begin the journal's own journal.
    "read_only": ("Read-only file system", "unable to open database file"),
}


def fails(federation: RealFederation, party: str, disk: str, phase: str) -> None:
    """This party's next process has such a disk from this phase of round 2 on."""
    path = str(TESTS / "faults" / "failing_daemon.py")
    federation.programs[party] = (path,)
    federation.environments[party] = {
        "LD_PRELOAD": str(library()),
        "FAILING_DISK": disk,
        "FAILING_PHASE": phase,
        "FAILING_BELOW": str(federation.home(party) / "state"),
    }


def mended(federation: RealFederation, party: str) -> None:
    """There is room again."""
    del federation.programs[party], federation.environments[party]


@pytest.mark.parametrize(
    ("party", "disk", "phase"),
    [
        (SILO, "full", "tuning"),
        (SILO, "full", "share"),
        (SILO, "full", "confirm"),
        (SILO, "read_only", "tuning"),
        (SILO, "read_only", "agree"),
        (HUB, "full", "tuning"),
        (HUB, "full", "mask"),
        (HUB, "full", "reveal"),
        (HUB, "full", "confirm"),
        (HUB, "read_only", "tuning"),
        (HUB, "read_only", "agree"),
    ],
)
async def test_a_disk_that_fails_under_a_federation(
    tmp_path: Path, party: str, disk: str, phase: str
) -> None:
    federation = RealFederation(tmp_path / "all", ROUNDS, SILOS, schedule=SCHEDULE)
    fails(federation, party, disk, phase)
    async with federation:
        async with asyncio.timeout(SECONDS):
            await federation.running[party].wait()
        said = federation.words(party)
        if party == SILO:
            federation.look(party)
        mended(federation, party)
        await federation.start(party)
        await federation.ended(SECONDS)
    # An aggregator may be started once more, for a silo that came late.
    assert federation.ends[party][:2] == [1, 0], said
    assert any(words in said for words in SENTENCES[disk]), said
    assert str(federation.home(party) / "state") in said
    others = [name for name in (HUB, *federation.names) if name != party]
    assert {end for name in others for end in federation.ends[name]} == {0}
    assert federation.run_folder().progress.certified == ROUNDS
    federation.check()
