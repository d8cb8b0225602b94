"""When a silo's connection is ended because of its leaf, and what that connection was in."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fedit_secure.errors import ConnectError
from fedit_secure.federation.certificates import LEAF_DAYS, leaf_end
from fedit_secure.federation.identity import create_identity
from fedit_secure.silo import dialling
from fedit_secure.silo.dialling import Dialling, Leaf

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class _Link:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Scene:
    """A silo whose clock, rounds and connections the test sets."""

    def __init__(self, folder: Any) -> None:
        self.now, self.between, self.answers = NOW, True, True
        self.leaves: list[Leaf] = []
        self.identity = create_identity(folder, "a", "silo", "x", now=NOW)
        self.dial = Dialling(
            self.identity, self._connect, lambda: self.between, lambda: self.now
        )

    async def _connect(self, leaf: Leaf) -> Any:
        assert self.dial.under_way
        if not self.answers:
            raise ConnectError("nobody is there")
        self.leaves.append(leaf)
        return _Link()

    async def looked(self) -> None:
        """It has looked at its certificate a few times."""
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
async def scene(tmp_path, monkeypatch):
    monkeypatch.setattr(dialling, "LOOK_SECONDS", 0)
    made = Scene(tmp_path / "a")
    task = asyncio.create_task(made.dial.keep())
    yield made
    task.cancel()


async def test_a_young_leaf_stays(scene):
    link = await scene.dial()
    scene.now += timedelta(days=LEAF_DAYS / 2)
    await scene.looked()
    assert not link.closed
    assert len(scene.leaves) == 1
    assert leaf_end(scene.dial.chain) == NOW + timedelta(days=LEAF_DAYS)


async def test_after_two_thirds_of_its_life_it_ends_between_two_rounds(scene):
    link, scene.between = await scene.dial(), False
    scene.now += timedelta(days=LEAF_DAYS * 0.7)
    await scene.looked()
    assert not link.closed  # a round is under way
    scene.between = True
    await scene.looked()
    assert link.closed
    again = await scene.dial()
    await scene.looked()
    assert not again.closed
    assert leaf_end(scene.dial.chain) == scene.now + timedelta(days=LEAF_DAYS)


async def test_before_its_last_day_it_ends_in_a_round_too(scene):
    link, scene.between = await scene.dial(), False
    scene.now = leaf_end(scene.dial.chain) - timedelta(hours=23)
    await scene.looked()
    assert link.closed


async def test_an_end_is_one_end_and_nobody_waits_for_a_link_that_is_gone(scene):
    link = await scene.dial()
    scene.now += timedelta(days=LEAF_DAYS)
    await scene.looked()
    assert link.closed
    scene.answers = False
    with pytest.raises(ConnectError):
        await scene.dial()
    assert not scene.dial.under_way
    await scene.looked()
    scene.answers = True
    assert not (await scene.dial()).closed
