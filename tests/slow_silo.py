"""`fedit` whose silo tunes in `slow_worker.py`: everything else is the daemon's own."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from fedit_secure.cli.main import main
from fedit_secure.silo import serve

WORKER = str(Path(__file__).with_name("slow_worker.py"))

if __name__ == "__main__":
    serve.tune_in_child = functools.partial(  # type: ignore[assignment]
        serve.tune_in_child, worker=(WORKER,)
    )
    sys.exit(main(sys.argv[1:]))
