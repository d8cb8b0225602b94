"""The files that `fedit charter draft` writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedit_secure.aggregator.certified_end import certified_end
from fedit_secure.cli.output import note
from fedit_secure.config import PlanFile, load_plan, misfits_of
from fedit_secure.errors import ConfigError, MalformedMessage
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import read_file, write_durably
from fedit_secure.federation.update import GridState
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
    before = Charter.load(loaded.predecessor) if loaded.predecessor else None
    given = _given_state(loaded, before)
    note(f"calibrating the noise for {len(parties) - 1} silos")
    today = datetime.now(UTC).date()
    with misfits_of(plan):
        charter, state = draft_run(
            loaded, parties, today, predecessor=before, given=given
        )
    # The charter last: if it is there, so is the state that it names.
    write_durably(state_path, state.to_bytes(), replace=False)
    write_durably(output, charter.to_bytes(), replace=False)
    return {
        "charter": output,
        "initial_state": state_path,
        "digest": charter.digest().hex(),
        "words": " ".join(charter.words()),
    }


def _given_state(plan: PlanFile, before: Charter | None) -> GridState | None:
    """The state that the plan names; None where the adapter is drawn.

    After a predecessor the plan has to say so: a drawn adapter would throw away what
    its rounds have learned.
    """
    where = plan.initial_state
    if where is None and before is not None:
        raise ConfigError(
            f"the plan follows epoch {before.epoch} and doesn't say where it starts: set "
            "'initial_state' to that epoch's run folder at the aggregator, to a state's "
            "file, or to 'drawn' for a new adapter"
        )
    if where is None or where == "drawn":
        return None
    if where.is_dir():
        if before is None:
            raise ConfigError(
                f"initial state {where} is a folder, and the plan names no 'predecessor' "
                "whose run it could be"
            )
        round, state = certified_end(where, before)
        note(f"it starts from the state after round {round} of epoch {before.epoch}")
        return state
    try:
        return GridState.from_bytes(read_file(where, "initial state"))
    except MalformedMessage as error:
        raise ConfigError(f"initial state {where}: {error}") from error


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.card")) if path.is_dir() else [path]
    return files
