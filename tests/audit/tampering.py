"""All tampered bundles, and the honest ones; `python -m audit.tampering FOLDER` writes them.

    PYTHONPATH=.:tests python -m audit.tampering FOLDER

Each is made by whom it takes: what a lying silo signs is signed by its key, what the
aggregator makes anew is signed by the aggregator's, and nobody has a key of anybody else.
"""

from __future__ import annotations

import sys
from pathlib import Path

from audit import (
    tampered_charges,
    tampered_cohorts,
    tampered_costs,
    tampered_ledgers,
    tampered_papers,
    tampered_rounds,
    tampered_sums,
)
from audit.honest_runs import STORIES
from audit.sealing import write_zip
from audit.tampered import TABLE

__all__ = [  # importing them enters their bundles in the table
    "STORIES",
    "TABLE",
    "tampered_charges",
    "tampered_cohorts",
    "tampered_costs",
    "tampered_ledgers",
    "tampered_papers",
    "tampered_rounds",
    "tampered_sums",
]


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(folder: Path) -> None:
    """Write every bundle, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tell in STORIES.items():
        write_zip(tell().sealed(), folder / f"honest-{name}.zip")
        _line(f"{name:52} -")
    for case in TABLE.values():
        write_zip(case.make(), folder / f"{case.name}.zip")
        _line(f"{case.name:52} {case.code:24} {case.done}")
    _line(f"{len(STORIES)} honest, {len(TABLE)} tampered bundles in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
