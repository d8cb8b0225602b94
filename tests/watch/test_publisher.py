"""The status file follows the daemon, and whatever is wrong with it harms nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from watch.sample_snapshots import a_silo

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.federation.page import PageConfig
from fedit_secure.watch import publisher, watching
from fedit_secure.watch.publisher import Publisher
from fedit_secure.watch.snapshot import SiloSnapshot, State
from fedit_secure.watch.status_file import read_status
from fedit_secure.watch.watching import Watching


class Standing:
    """A silo that stands still but for its round."""

    def __init__(self) -> None:
        self.now = a_silo()

    def round(self, number: int) -> None:
        self.now = replace(self.now, now=replace(self.now.now, round=number))

    def refresh(self) -> None:
        """Nothing to read."""

    def snapshot(self) -> SiloSnapshot:
        return self.now

    def finish(self, state: State, why: str = "") -> None:
        daemon = replace(self.now.daemon, state=state, why=why)
        self.now = replace(self.now, daemon=daemon)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)


def in_file(folder: Path) -> SiloSnapshot:
    snapshot = read_status(folder)
    assert isinstance(snapshot, SiloSnapshot)
    return snapshot


async def test_every_change_reaches_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PAUSE_SECONDS", 0.01)
    standing = Standing()
    shown = Publisher(tmp_path, standing.snapshot)
    async with shown:
        assert in_file(tmp_path).now.round == 3  # from the start
        for number in (4, 5):
            standing.round(number)
            shown.changed()
            await until(lambda number=number: in_file(tmp_path).now.round == number)
        standing.round(6)
    assert in_file(tmp_path).now.round == 6  # and at the end, told or not


async def test_it_says_now_and_then_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(publisher, "BEAT_SECONDS", 0.01)
    standing = Standing()
    async with Publisher(tmp_path, standing.snapshot):
        standing.round(4)
        await until(lambda: in_file(tmp_path).now.round == 4)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyError("bug")])
async def test_what_fails_is_warned_of_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    monkeypatch.setattr(publisher, "_PAUSE_SECONDS", 0.0)
    asked = []

    def snapshot() -> SiloSnapshot:
        asked.append(1)
        raise error

    shown = Publisher(tmp_path, snapshot)
    async with shown:
        while len(asked) < 4:
            shown.changed()
            await asyncio.sleep(0)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "can't be shown" in warnings[0].getMessage()


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (None, "ended", ""),
        (SystemExit(0), "stopped", ""),
        (asyncio.CancelledError(), "stopped", ""),
        (TuningFailed("it failed"), "failed", "it failed"),
        # A foreign error's text may quote a record.
        (ValueError("secret"), "failed", "the log says why"),
    ],
)
async def test_the_last_thing_shown_is_how_it_ended(
    tmp_path: Path, error: BaseException | None, state: str, why: str
) -> None:
    async def run() -> None:
        async with Watching(tmp_path, None).show(Standing()):
            if error is not None:
                raise error

    if error is None:
        await run()
    else:
        with pytest.raises(type(error)):
            await run()
    daemon = in_file(tmp_path).daemon
    assert (daemon.state, daemon.why) == (state, why)


def test_without_the_extra_a_page_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "find_spec", lambda name: None)
    Watching(tmp_path, None)
    with pytest.raises(ConfigError, match=r"'fedit-secure\[web\]'"):
        Watching(tmp_path, PageConfig(listen="127.0.0.1:9464"))


async def test_the_last_file_waits_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written side by side, one of the two would take away the other's draft."""
    written: list[str] = []
    began = threading.Event()

    def slow(state: Path, snapshot: SiloSnapshot) -> None:
        written.append("begins")
        began.set()
        time.sleep(0.3)
        written.append("ends")

    monkeypatch.setattr(publisher, "write_status", slow)
    async with Publisher(tmp_path, Standing().snapshot) as shown:
        began.clear()
        shown.changed()
        await until(began.is_set)
    assert written == ["begins", "ends"] * (len(written) // 2)
    assert len(written) == 6
