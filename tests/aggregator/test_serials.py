"""Leaf serials outlive the aggregator's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedit_secure.aggregator.serials import Serials
from fedit_secure.errors import StorageError


def test_what_was_seen_is_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "serials.json"
    serials = Serials(path)
    serials["north"] = 7
    serials["north"] = 9
    assert dict(Serials(path)) == {"north": 9}


def test_nothing_is_forgotten(tmp_path: Path) -> None:
    serials = Serials(tmp_path / "serials.json")
    serials["north"] = 7
    with pytest.raises(TypeError, match="isn't forgotten"):
        del serials["north"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "serials.json"
    path.write_text("[1")
    with pytest.raises(StorageError, match=r"serials\.json is damaged"):
        Serials(path)
