"""A run that was killed between rounds and resumed ends in the state, to the bit, of one
that wasn't, when both draw the same randomness."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.federation.server_rules import FedAvgM
from fedit_secure.silo import attempts

ROUNDS = 3
SECONDS = 120
PATIENT = {"phase_deadline_seconds": 30.0, "silo_deadline_seconds": 60.0}


@pytest.fixture(autouse=True)
def _fixed_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coins of an update's rounding. Masks cancel out, whatever their keys."""
    fixed = SimpleNamespace(urandom=lambda size: bytes(range(size)))
    monkeypatch.setattr(attempts, "os", fixed)


async def lived(federation: SmallFederation, killed_after: set[int]) -> list[bytes]:
    """Run it; after each of these rounds everybody ends at once, and starts again from
    what is on the disk. The digests of all rounds' states."""
    left = set(killed_after)
    for _ in count():
        struck = asyncio.Event()

        def on_event(event, struck=struck) -> None:  # type: ignore[no-untyped-def]
            if event.phase == "certified" and event.round in left:
                left.discard(event.round)
                struck.set()

        hub = federation.new_aggregator(on_event)
        done = await _life(federation, hub, struck)
        if done:
            break
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    assert folder.progress.certified == ROUNDS
    return [folder.state_after(round).digest() for round in range(ROUNDS + 1)]


async def _life(
    federation: SmallFederation, hub: Aggregator, struck: asyncio.Event
) -> bool:
    """Whether the run has come to its end."""
    silos = [
        asyncio.create_task(federation.run_silo(silo, lambda: hub))
        for silo in federation.silos
    ]
    running = asyncio.create_task(hub.run())
    waiting = asyncio.create_task(struck.wait())
    async with asyncio.timeout(SECONDS):
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        over = not struck.is_set()
        if over:
            await asyncio.gather(running, *silos)
    for task in (running, waiting, *silos):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return over


async def test_everybody_is_killed_between_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With momentum on the server: its memory is part of the state."""
    one = found(tmp_path / "one", 3, ROUNDS, rule=FedAvgM(), **PATIENT)

    def again(name: str) -> SmallFederation:
        root = Path(shutil.copytree(tmp_path / "begun", tmp_path / name))
        return replace(one, root=root, updates={}, events=[])

    shutil.copytree(one.root, tmp_path / "begun")
    through = await lived(one, set())
    assert len(set(through)) == ROUNDS + 1
    assert await lived(again("resumed"), {1, 2}) == through
    # The comparison can fail: the state depends on every silo's coins.
    monkeypatch.setattr(attempts, "os", SimpleNamespace(urandom=bytes))
    assert (await lived(again("other"), {1}))[1:] != through[1:]
