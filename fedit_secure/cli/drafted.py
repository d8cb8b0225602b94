"""The files that `fedit charter draft` writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedit_secure.cli.output import note
from fedit_secure.config import load_plan
from fedit_secure.errors import ConfigError
from fedit_secure.federation.card import Card
from fedit_secure.federation.durable import write_durably
from fedit_secure.tuning.run_start import draft_run

STATE_FILE = "initial-state.bin"


def draft_files(plan: Path, cards: Sequence[Path], output: Path) -> dict[str, Any]:
    """Writes the charter to `output` and the initial state beside it.

    Neither replaces a file. Raises ConfigError; nothing has then been written.
    """
    loaded = load_plan(plan)
    state_path = output.with_name(STATE_FILE)
    for path in (output, state_path):
        if path.exists():
            raise ConfigError(f"{path} exists already, and is not overwritten")
        if not path.parent.is_dir():
            raise ConfigError(f"there is no folder {path.parent}")
    parties = [Card.load(path) for path in _files(cards)]
    note(f"calibrating the noise for {len(parties) - 1} silos")
    charter, state = draft_run(loaded, parties, datetime.now(UTC).date())
    # The charter last: if it is there, so is the state that it names.
    write_durably(state_path, state.to_bytes(), replace=False)
    write_durably(output, charter.to_bytes(), replace=False)
    return {
        "charter": output,
        "initial_state": state_path,
        "digest": charter.digest().hex(),
        "words": " ".join(charter.words()),
    }


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.card")) if path.is_dir() else [path]
    return files
