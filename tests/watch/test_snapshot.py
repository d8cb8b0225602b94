from __future__ import annotations

import json
import stat
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from watch.sample_snapshots import NOW, a_silo, an_aggregator, ended

from fedit_secure.errors import StorageError
from fedit_secure.watch.snapshot import (
    Snapshot,
    from_json,
    seconds_a_round,
    seconds_left,
    to_json,
)
from fedit_secure.watch.status_file import (
    is_alive,
    read_status,
    status_path,
    write_status,
)

BOTH = pytest.mark.parametrize("snapshot", [an_aggregator(), a_silo()])


@BOTH
def test_what_is_written_is_what_is_read(snapshot: Snapshot) -> None:
    assert from_json(to_json(snapshot), "it") == snapshot
    with pytest.raises(FrozenInstanceError):
        snapshot.run.rounds = 9  # type: ignore[misc]


@BOTH
def test_it_is_plain_json_on_one_line(snapshot: Snapshot) -> None:
    data = to_json(snapshot)
    assert b"\n" not in data
    assert json.loads(data)["role"] in {"silo", "aggregator"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"role": "auditor"}', b"\xff"])
def test_anything_else_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(StorageError, match=r"status\.json is no snapshot"):
        from_json(data, "status.json")


def test_what_is_left_follows_from_the_median_of_the_rounds() -> None:
    snapshot = replace(
        an_aggregator(),
        rounds=tuple(replace(ended(n), seconds=s) for n, s in ((1, 10.0), (2, 99.0))),
    )
    assert seconds_a_round(snapshot) == 99.0
    assert seconds_left(snapshot) == 3 * 99.0  # three of five rounds
    assert seconds_left(a_silo()) is None  # which knows of no round how long it took
    over = replace(snapshot, daemon=replace(snapshot.daemon, state="stopped"))
    assert seconds_left(over) is None


def test_the_status_file_is_its_accounts_own(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    write_status(tmp_path, a_silo())
    write_status(tmp_path, an_aggregator())
    assert read_status(tmp_path) == an_aggregator()
    assert stat.S_IMODE(status_path(tmp_path).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere.*No such file"):
        write_status(tmp_path / "nowhere", a_silo())


def test_a_daemon_that_is_silent_or_has_ended_isnt_alive() -> None:
    snapshot = a_silo()
    assert is_alive(snapshot, NOW + 30)
    assert not is_alive(snapshot, NOW + 600)
    over = replace(snapshot, daemon=replace(snapshot.daemon, state="ended"))
    assert not is_alive(over, NOW)
