"""`python -m fedit_secure.audit.canary.idle_worker NOTE`: a worker without work. No torch.

It says that it is ready, as the real one does, and makes the file NOTE when it is told to
sample. So it shows cheaply whether the silo tells a worker so after a refused charge.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedit_secure.tuning.worker import START_SAMPLING


def main(note: Path) -> int:
    """Read a job, be ready, and wait for the word."""
    sys.stdin.readline()
    sys.stdout.write(json.dumps({"phase": "ready"}) + "\n")
    sys.stdout.flush()
    if sys.stdin.readline().strip() == START_SAMPLING:
        note.touch()
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
