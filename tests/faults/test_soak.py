"""Processes killed at random points, over and over, and disks that lose power: `make soak`.

SOAK_POINTS says at how many points, SOAK_SEED repeats a run. In one story a silo dies one
to three times, wherever it is: while it repairs what the last death left, too. After half
of the deaths its disk has lost power as well, and keeps what it must and a random part of
the rest.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from faults.power import Disk
from faults.process_federation import SKIPPED, VOIDED, Nursery, Story, tell
from faults.promises import Promises
from faults.syscalls import Fate, record_of
from faults.verdict import check, look

from fedit_secure.errors import FeditError

SEED = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
POINTS = int(os.environ.get("SOAK_POINTS") or 240)
RUN = 640  # points in a run that nothing happens to, or nearly so
AT_ONCE = 4
MOST_DEATHS = 3

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SCENES = {  # how many silos, who else dies, when these are back; and how often
    "of four": (4, {}, "", 10),
    "all are needed": (3, {}, "", 10),
    "voided": (4, VOIDED, "", 4),
    "skipped": (4, SKIPPED, "skipped", 1),
}


class Watcher:
    """After each death: the books must open and have all charges, and the disk may lose
    its power. What was said is held against what is left."""

    def __init__(self, story: Story, chance: Random) -> None:
        self._chance = chance
        self._disk, self._promises = Disk(story.home), Promises(story)
        self.cuts = 0

    def __call__(self, story: Story, life: int) -> None:
        self._disk.restart()
        self._promises.restart()
        for call in record_of(story.record(life)):
            self._disk.take(call)
            self._promises.take(call)
        if self._chance.random() < 0.5:
            self._disk = self._disk.cut(self._chance)
            self._disk.write_to(story.home)
            self.cuts += 1
        if story.state_folder.exists():
            look(story, life)
            copy = story.outside / f"held{life}"
            shutil.copytree(story.state_folder, copy)
            self._promises.hold(copy)


def fates(chance: Random) -> list[Fate]:
    """Of up to three processes, the later ones with shorter lives."""
    deaths = chance.choices(range(1, MOST_DEATHS + 1), (6, 3, 1))[0]
    return [
        Fate(kill_at=chance.randint(1, RUN >> life), how=chance.randrange(3))
        for life in range(deaths)
    ]


def scenes(chance: Random) -> Iterator[str]:
    """One of each, and then by chance."""
    yield from SCENES
    while True:
        weights = [scene[3] for scene in SCENES.values()]
        yield from chance.choices(list(SCENES), weights)


async def test_killed_anywhere(nursery: Nursery, tmp_path: Path) -> None:
    figures: Counter[str] = Counter()
    chance = Random(SEED)
    order, numbers = scenes(chance), iter(range(10**9))
    wrong: list[str] = []

    async def worker() -> None:
        while figures["points"] < POINTS:
            await one(next(numbers), next(order))

    async def one(number: int, scene: str) -> None:
        own = Random(f"{SEED}/{number}")
        silos, dying, back, _ = SCENES[scene]
        watchers: list[Watcher] = []

        def between(story: Story, life: int) -> None:
            if not watchers:
                watchers.append(Watcher(story, own))
            watchers[0](story, life)

        folder, planned = tmp_path / str(number), fates(own)
        where = f"story {number} ({scene}, {planned}) of seed {SEED}"
        try:
            story = await tell(
                nursery, folder, planned, silos, dying, back, between, hasty=True
            )
            check(story)
        except TimeoutError:
            figures["hangs"] += 1
            wrong.append(f"{where} hangs")
            return
        except (AssertionError, FeditError) as error:
            figures["below" if "sampled" in str(error) else "broken"] += 1
            wrong.append(f"{where}: {error}")
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        figures["stories"] += 1
        figures["points"] += sum(end < 0 for end in story.ends)
        figures["cuts"] += sum(watcher.cuts for watcher in watchers)
        last = story.ends[-1]
        figures["recovered" if last == 0 else "refused"] += 1
        if last not in (0, 2, 8):  # the run was given up without it, or with it
            wrong.append(f"{where}: {last}, {story.reports[-1].error}")

    sys.stdout.write(f"\nseed {SEED}\n")
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    sys.stdout.write(
        f"{figures['points']} points in {figures['stories']} runs, and the power cut at "
        f"{figures['cuts']} of them: {figures['recovered']} recovered, "
        f"{figures['refused']} refused, {figures['below']} charges below what was spent, "
        f"{figures['broken']} other promises broken, {figures['hangs']} hangs\n"
    )
    assert not wrong, "\n".join(wrong)
    assert figures["points"] >= POINTS
