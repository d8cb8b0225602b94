"""`python -m fedit_secure.audit.canary.watched_worker NOTE`: the worker, watched.

It is the silo's own worker. Beside doing its job it writes into the file NOTE when it
begins to sample: `time.monotonic_ns()`, a clock that all processes of a machine share.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from fedit_secure.tuning import local_round, worker

LINGER_SECONDS = 30.0


def watch(note: Path) -> None:
    """From now on the first round that begins to sample is noted, and goes on as ever."""
    run_round = local_round.run_round

    def noted(*given: Any, **options: Any) -> Any:
        if not note.exists():
            # By its name alone when it's whole: the audit may be reading just now.
            draft = note.with_suffix(".draft")
            draft.write_text(str(time.monotonic_ns()), encoding="ascii")
            draft.rename(note)
        return run_round(*given, **options)

    local_round.run_round = noted


def main(note: Path) -> int:
    """The worker's own exit status. It stays for a while when it is done: one that doesn't
    wait for its charge may be done before it is told to sample, and still is to hear it.
    """
    watch(note)
    status = worker.main()
    time.sleep(LINGER_SECONDS)  # the silo ends it as soon as it has the update
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
