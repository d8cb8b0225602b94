"""A silo tunes in its hours only: it waits for them, or refuses the round."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_federation import POLICY, SmallFederation, found

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.charter import Schedule
from fedit_secure.federation.hours import Hours
from fedit_secure.federation.policy import Policy
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.starting_hours import StartingHours
from fedit_secure.wire import frames as f

SECONDS = 60
NIGHT = Hours.model_validate({"from": "20:00", "until": "06:00", "zone": "UTC"})
EVENING = datetime(2026, 5, 1, 19, 59, tzinfo=UTC).timestamp()  # a minute before


async def test_in_the_hours_nobody_waits() -> None:
    for hours, clock in ((None, EVENING), (NIGHT, EVENING + 60)):
        told: list[str] = []
        wait = StartingHours(hours, Schedule(), lambda now=clock: now).wait
        await wait(told.append)
        assert told == []


async def test_it_waits_where_they_begin_within_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, naps, told = [EVENING - 3000], [], []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds
        if len(naps) == 5:
            now[0] -= 120  # the clock is set back on the way

    monkeypatch.setattr("fedit_secure.silo.starting_hours.asyncio.sleep", sleep)
    await StartingHours(NIGHT, Schedule(), lambda: now[0]).wait(told.append)
    assert now[0] == EVENING + 60
    assert max(naps) == 60
    assert told == ["waiting for its hours"]


@pytest.mark.parametrize("deadline", [60.0, 30.0])
async def test_it_refuses_where_they_do_not(deadline: float) -> None:
    schedule, told = Schedule(tune_deadline_seconds=deadline), []
    with pytest.raises(PolicyRefusal) as caught:
        await StartingHours(NIGHT, schedule, lambda: EVENING).wait(told.append)
    assert str(caught.value) == (
        "this silo tunes from 20:00 until 06:00 UTC, which begins in 60 seconds, and the "
        f"charter's tuning deadline is {deadline:.0f} seconds"
    )
    assert told == []


# ------------------------------------------------------------------------- whole daemons


async def run(federation: SmallFederation, told: dict[str, list[str]]) -> Any:
    hub = federation.new_aggregator()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        for party in federation.silos:
            phases = told.setdefault(party.name, [])
            tell = lambda round, phase, phases=phases: phases.append(phase)  # noqa: E731
            group.create_task(federation.run_silo(party, lambda: hub, on_event=tell))
        return await hub.run()


def charges(federation: SmallFederation, silo: str) -> int:
    with open_journal(federation.root / silo) as journal:
        return len(Ledger.from_entries(silo, journal.ledger(silo)).intents())


def with_hours(start: str, until: str) -> Policy:
    hours = {"from": start, "until": until, "zone": "UTC"}
    return Policy.model_validate(POLICY.model_dump() | {"hours": hours})


async def test_a_round_outside_the_hours_goes_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It's told why, nothing is tuned or charged, and the others have their sum."""
    federation, refused = found(tmp_path, 4), []
    now = datetime.now(UTC)
    start, until = (f"{now + timedelta(hours=h):%H:%M}" for h in (11, 12))
    federation.policies["s2"] = with_hours(start, until)
    before = f.Refused.__init__

    def seen(frame: f.Refused, round: int, reason: str) -> None:
        before(frame, round, reason)
        refused.append(reason)

    monkeypatch.setattr(f.Refused, "__init__", seen)
    told: dict[str, list[str]] = {}
    await run(federation, told)
    assert ("s2", 1) not in federation.updates
    assert [charges(federation, f"s{i}") for i in range(4)] == [1, 1, 0, 1]
    assert "refused" in told["s2"]
    assert "tuning" not in told["s2"]
    assert {
        reason.split(", and")[0].rstrip(".0123456789 hours") for reason in refused
    } == {f"this silo tunes from {start} until {until} UTC, which begins in"}


async def test_a_round_just_before_the_hours_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, began = found(tmp_path, 4), time.monotonic()
    federation.policies["s2"] = with_hours("20:00", "06:00")
    clock = lambda: EVENING + 58 + time.monotonic() - began  # noqa: E731
    monkeypatch.setattr(
        "fedit_secure.silo.daemon.StartingHours", partial(StartingHours, clock=clock)
    )
    told: dict[str, list[str]] = {}
    await run(federation, told)
    assert clock() >= EVENING + 60
    assert [charges(federation, f"s{i}") for i in range(4)] == [1] * 4
    assert told["s2"][:2] == ["waiting for its hours", "tuning"]
    assert "waiting for its hours" not in told["s1"]
