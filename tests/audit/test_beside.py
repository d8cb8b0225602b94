"""Rounds that are read in processes beside are the same, and wait for nobody."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from audit.forge import Run
from audit.parties import found
from audit.sealing import write_zip

from fedit_secure.audit.beside import Child, children, shares
from fedit_secure.audit.bundle import Bundle, charter_of
from fedit_secure.audit.rounds import Terms, read_rounds
from fedit_secure.errors import ConfigError

ROUNDS = range(1, 61)
PIPE = 64 * 1024  # bytes that a pipe holds


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rounds of twelve silos."""
    run = Run(found(12, len(ROUNDS)))
    for _ in ROUNDS:
        run.released()
    path = tmp_path_factory.mktemp("beside") / "run.zip"
    return write_zip(run.end(vanished=run.world.names).sealed(), path)


def test_a_child_ends_before_anybody_asks_what_it_read(bundle: Path) -> None:
    """Else it would stand still while this process does its own share."""
    child = Child(bundle, ROUNDS)
    try:
        deadline = time.monotonic() + 200
        while child._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert child._process.poll() == 0
        child._reader.join()
        assert sum(map(len, child._lines)) > PIPE  # or the test would show nothing
        assert len(child.result()) == len(ROUNDS)
    finally:
        child.stop()


def test_children_read_what_this_process_would(bundle: Path) -> None:
    with children(bundle, [range(1, 8), range(8, 20)]) as beside:
        read = [ended for child in beside for ended in child.result()]
    with Bundle(bundle) as opened:
        terms = Terms.of(charter_of(opened))
        assert read == list(read_rounds(opened, terms, range(1, 20)))


@pytest.mark.parametrize("jobs", [1, 2, 3, 8])
def test_shares_are_all_rounds_once(jobs: int) -> None:
    parts = shares(ROUNDS, jobs)
    assert len(parts) == jobs
    assert [round for part in parts for round in part] == list(ROUNDS)
    assert all(a[-1] < b[0] for a, b in pairwise(part for part in parts if part))


def test_a_child_that_can_not_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.zip").write_bytes(b"no archive")
    child = Child(tmp_path / "run.zip", ROUNDS)
    try:
        with pytest.raises(ConfigError, match="rounds 1 to 60"):
            child.result()
    finally:
        child.stop()
