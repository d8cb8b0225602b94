"""A daemon of either role under whose state folder the disk fails in the middle of a run.

    FAILING_DISK=full FAILING_PHASE=share FAILING_BELOW=FOLDER LD_PRELOAD=syscalls.so \
        python failing_daemon.py silo|aggregator serve CONFIG

From this phase of round 2 on, calls that change FOLDER fail as on such a disk. A silo's
tuning is a draw, as in `marked_silo.py`; everything else is the daemon's own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from faults import marked_silo
from faults.syscalls import FULL, READ_ONLY, Fate, Kernel

from fedit_secure.aggregator import serve as hub
from fedit_secure.aggregator.course import Course as HubCourse
from fedit_secure.aggregator.events import Event
from fedit_secure.cli.main import main
from fedit_secure.silo import serve as silo
from fedit_secure.silo.course import Course as SiloCourse

ROUND = 2
DISKS = {"full": FULL, "read_only": READ_ONLY}


def prepare(kernel: Kernel, fate: Fate, phase: str) -> None:
    """Both roles tell their course where they are before they act on it."""

    def told(round: int, now: str) -> None:
        if (round, now) == (ROUND, phase):
            kernel.arm(fate)

    class FailingSilo(SiloCourse):
        def told(self, round: int, phase: str) -> None:
            told(round, phase)
            super().told(round, phase)

    class FailingHub(HubCourse):
        def told(self, event: Event) -> None:
            if not event.silo:
                told(event.round, event.phase)
            super().told(event)

    silo.Course = FailingSilo  # type: ignore[misc]
    hub.Course = FailingHub  # type: ignore[misc]


if __name__ == "__main__":
    watched = Kernel()
    watched.begin(Path(os.environ["FAILING_BELOW"]), -1, Fate())
    prepare(watched, DISKS[os.environ["FAILING_DISK"]], os.environ["FAILING_PHASE"])
    marked_silo.mark()
    sys.exit(main(sys.argv[1:]))
