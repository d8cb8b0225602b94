"""One daemon per state folder, found by its process number for as long as it lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedit_secure.errors import StorageError
from fedit_secure.storage.daemon_lock import only_daemon, running_daemon

HOLD = """
import sys, pathlib
from fedit_secure.storage.daemon_lock import only_daemon
with only_daemon(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(state: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_daemon_is_found_while_it_lives(tmp_path: Path) -> None:
    assert running_daemon(tmp_path / "state") is None
    for end in (signal.SIGTERM, signal.SIGKILL):
        process = holder(tmp_path / "state")
        assert running_daemon(tmp_path / "state") == process.pid
        process.send_signal(end)
        process.communicate()
        assert running_daemon(tmp_path / "state") is None  # whatever the file says


def test_attack_two_daemons_on_one_state_folder_of_either_role(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with (
            pytest.raises(StorageError, match="two daemons can't share a state folder"),
            only_daemon(tmp_path),
        ):
            raise AssertionError("it is the second one")
        process.kill()
    with only_daemon(tmp_path):
        assert running_daemon(tmp_path) == os.getpid()
    assert running_daemon(tmp_path) is None


def test_a_lock_that_says_nothing_names_nobody(tmp_path: Path) -> None:
    with only_daemon(tmp_path):
        (tmp_path / "daemon.lock").write_text("-1\n")
        with pytest.raises(StorageError, match="doesn't say which process"):
            running_daemon(tmp_path)


def test_a_folder_that_cant_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").mkdir()
    with pytest.raises(StorageError, match="can't be written"), only_daemon(tmp_path):
        raise AssertionError("there is no lock")
