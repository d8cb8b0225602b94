"""When a draining aggregator may stop, and that it is told so once."""

from __future__ import annotations

import asyncio

import pytest

from fedit_secure.aggregator.course import Course
from fedit_secure.aggregator.events import Event


class Scene:
    """An aggregator whose attempt the test opens and closes."""

    def __init__(self) -> None:
        self.open, self.stops = False, 0
        self.course = Course(lambda event: None, lambda: self.open)
        self.course.stop = self._stop

    def _stop(self) -> None:
        self.stops += 1

    def told(self, phase: str, silo: str = "") -> None:
        self.course.told(Event(1, silo, phase))


@pytest.fixture
async def scene():
    made = Scene()
    keeping = asyncio.create_task(made.course.keep())
    yield made
    keeping.cancel()


async def stopped(scene: Scene) -> None:
    async with asyncio.timeout(30):
        while not scene.stops:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


async def test_it_stops_at_once_where_no_attempt_is_open(scene):
    scene.told("tuning")
    assert not scene.stops
    scene.course.drain()
    await stopped(scene)


async def test_an_open_attempt_is_finished_and_the_silos_are_told(scene):
    scene.open = True
    scene.told("mask")
    scene.course.drain()
    await asyncio.sleep(0.3)
    assert not scene.stops
    scene.open = False
    scene.told("certified")  # its certificate is on its way
    scene.told("idle", "s0")
    await asyncio.sleep(0.3)
    assert not scene.stops
    scene.told("tuning")  # the next round ends before it has begun
    assert scene.stops == 1
    scene.told("tuning", "s0")
    await asyncio.sleep(0.3)
    assert scene.stops == 1


async def test_an_attempt_that_ends_without_a_sum_is_not_followed_by_another(scene):
    scene.open = True
    scene.told("void")
    scene.course.drain()
    await asyncio.sleep(0.3)
    assert not scene.stops
    scene.open = False
    await stopped(scene)
    assert scene.stops == 1
