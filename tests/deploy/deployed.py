"""Where the files for operators are, and which tools to hold them against are here.

`make deploy-check` installs the tools; without them their tests are skipped.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLES = sorted(path for path in (ROOT / "silos").iterdir() if path.is_dir())


def tool(name: str) -> str:
    """The path of a program, from this environment or the system's; skips without it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(
        name
    )
    if found is None:
        pytest.skip(f"{name} isn't installed; `make deploy-check` brings what it can")
    return found
