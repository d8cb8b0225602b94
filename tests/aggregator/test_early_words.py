"""What silos say to a restarted aggregator before it has taken up the open attempt."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_federation import found

from fedit_secure.aggregator import attempts
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s


@pytest.mark.parametrize("resumed", [True, False])
async def test_a_word_that_comes_first_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """A silo says its confirmation once to each process. It came before enough silos were
    there, and was dropped: the round could never be certified again. In an attempt of
    this process's own it has no place."""
    hub = found(tmp_path, 4).new_aggregator()
    hub._folder.enter(replace(hub._folder.progress, attempt=1, open=True))
    words = [
        m.Confirmation(silo, bytes(32), 1, bytes(32), b"r" * 32) for silo in (2, 3)
    ]
    for word in (*words, words[0]):
        link = SimpleNamespace(silo=word.silo, name=f"s{word.silo}")
        await hub._take_message(link, word)  # type: ignore[arg-type]
    taken: list[tuple[int, m.Message]] = []

    async def drive(*args: Any) -> s.Ended:
        inbox = args[3]
        while not inbox.empty():
            taken.append(await asyncio.Queue.get(inbox))
        return s.Ended("", free=True)

    monkeypatch.setattr(attempts, "drive_aggregator", drive)
    before = hub._folder.state()
    session = hub._attempts.session(1, 1, before)
    resume: Any = object() if resumed else None
    await hub._attempts._drive(session, before, resume)
    assert taken == ([(word.silo, word) for word in words] if resumed else [])
