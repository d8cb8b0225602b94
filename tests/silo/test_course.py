"""When a draining daemon may stop: what was paid for is finished, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from fedit_secure.silo.course import Course


@pytest.fixture
def course():
    return Course(lambda round, phase: None)


@pytest.mark.parametrize(
    "phase", ["", "applied", "skipped", "refused", "waiting for its hours", "tuning"]
)
async def test_it_stops_where_nothing_was_paid_for(course, phase):
    course.told(1, phase)
    course.drain()
    async with asyncio.timeout(30):
        await course.drained()


async def test_it_goes_on_until_asked(course):
    waiting = asyncio.create_task(course.drained())
    course.told(1, "applied")
    await asyncio.sleep(0.3)
    assert not waiting.done()
    course.drain()
    async with asyncio.timeout(30):
        await waiting


@pytest.mark.parametrize("end", ["tuned", "refused", "skipped"])
async def test_a_charged_tuning_is_finished(course, end):
    course.told(1, "tuning")
    await course.before_charge()
    course.told(1, "sampling 1/8")
    course.drain()
    assert not course.may_stop
    course.dialling = lambda: True  # whether it is connected or not
    assert not course.may_stop
    course.told(1, end)
    assert course.may_stop


async def test_nothing_is_charged_any_more_once_it_drains(course):
    course.told(2, "tuning")
    course.drain()
    charging = asyncio.create_task(course.before_charge())
    await asyncio.sleep(0.3)
    assert not charging.done()
    assert course.may_stop
    charging.cancel()


@pytest.mark.parametrize(
    "phase", ["advertise", "share", "mask", "agree", "reveal", "confirm"]
)
async def test_a_release_is_finished_unless_the_aggregator_is_gone(course, phase):
    course.told(1, phase)
    course.drain()
    assert not course.may_stop
    course.dialling = lambda: True
    assert course.may_stop
    course.dialling = lambda: False
    course.told(1, "applied")
    assert course.may_stop
