"""One journal under two names: links and mounts lead to the same lock, or nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedit_secure.errors import StorageError
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.journal import Journal

NAME = "journal.sqlite"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "silo" / "state"
    open_journal(state).close()
    return state


def linked_folder(state: Path, other: Path) -> Path:
    other.symlink_to(state, target_is_directory=True)
    return other


def linked_parent(state: Path, other: Path) -> Path:
    other.symlink_to(state.parent, target_is_directory=True)
    return other / "state"


def linked_file(state: Path, other: Path) -> Path:
    other.mkdir()
    (other / NAME).symlink_to(state / NAME)
    (other / "journal.made").touch()
    return other


def round_about(state: Path, other: Path) -> Path:
    return state / ".." / ".." / "silo" / "state"


NAMES: dict[str, Callable[[Path, Path], Path]] = {
    "linked_folder": linked_folder,
    "linked_parent": linked_parent,
    "linked_file": linked_file,
    "round_about": round_about,
}

OPENER = """
import sys
from pathlib import Path
from fedit_secure.silo.ledger_opening import open_journal
open_journal(Path(sys.argv[1]))
print("opened")
"""


@pytest.mark.parametrize("how", NAMES)
def test_attack_two_names_of_one_state_folder(
    state: Path, tmp_path: Path, how: str
) -> None:
    """Both ways round, and from another process, too."""
    other = NAMES[how](state, tmp_path / "other")
    for first, second in ((state, other), (other, state)):
        with open_journal(first):
            with pytest.raises(StorageError, match="two daemons can't share"):
                open_journal(second)
            done = subprocess.run(
                [sys.executable, "-c", OPENER, second],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert "two daemons can't share" in done.stderr
            assert not done.stdout
        open_journal(second).close()


def test_attack_two_names_of_one_mounted_folder(state: Path, tmp_path: Path) -> None:
    """A bind mount, as containers make them, in a namespace of its own."""
    other = tmp_path / "mounted"
    other.mkdir()
    script = (
        f'mount --bind "{state}" "{other}" && echo mounted && '
        f'exec "{sys.executable}" -c \'{OPENER}\' "{other}"'
    )
    with open_journal(state):
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if "mounted" not in done.stdout:
        pytest.skip(f"no mounts can be made here: {done.stderr.strip()}")
    assert "two daemons can't share" in done.stderr
    assert "opened" not in done.stdout


def test_a_second_hard_link_is_refused(state: Path, tmp_path: Path) -> None:
    """The lock lies beside the name, and this one has another folder."""
    other = tmp_path / "other"
    other.mkdir()
    os.link(state / NAME, other / NAME)
    for folder in (state, other):
        with pytest.raises(StorageError, match="has a second name"):
            Journal.open(folder / NAME)
    Journal.open(state / NAME, read_only=True).close()
    (other / NAME).unlink()
    open_journal(state).close()
