"""What the aggregator shows of itself, after events and after a whole run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.aggregator.standing import Standing
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.storage.progress import Progress
from fedit_secure.watch import view
from fedit_secure.wire.traffic import Traffic

LEAF = datetime(2027, 1, 1, tzinfo=UTC)


class Clock:
    """Unix time, as set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 4, rounds=2)


def standing_of(
    federation: SmallFederation, clock: Clock, phases: list[tuple[str, float]]
) -> Standing:
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    traffic = Traffic()
    traffic.received["s1"] = 7
    return Standing(
        federation.charter,
        folder,
        traffic,
        lambda: LEAF,
        on_phase=lambda phase, seconds: phases.append((phase, seconds)),
        clock=clock,
    )


def test_it_says_for_whom_the_round_is_drawn(tmp_path: Path) -> None:
    """The headline counts those that may be in the sum, connected or not."""
    federation = found(tmp_path, 5, rounds=2, drawn=3, fits=draws_others)
    standing = standing_of(federation, Clock(), [])
    cohorts = Cohorts(federation.charter)
    for now in (1, 2):
        standing.take(Event(now, "", "tuning"))
        for row in federation.charter.roster:
            drawn = row.name in cohorts.names(now)
            standing.take(Event(now, row.name, "idle" if drawn else "undrawn"))
        snapshot = standing.snapshot()
        assert tuple(s.name for s in snapshot.drawn) == cohorts.names(now)
        headline = view.headline(snapshot)
        assert headline.kind == "good"
        assert "0 ready; a sum needs 3 of the 3 drawn." in headline.more
    shown = {s.name: view.phase(s.phase) for s in snapshot.silos}
    assert list(shown.values()).count("sitting the round out") == 2
    # All the others don't make up for one that is drawn.
    standing.take(Event(2, cohorts.names(2)[0], "away"))
    snapshot = standing.snapshot()
    assert snapshot.connected == 4
    assert view.headline(snapshot).kind == "open"


def draws_others(charter: Charter) -> bool:
    cohorts = Cohorts(charter)
    return cohorts.of(1) != cohorts.of(2)


def test_it_follows_the_events(federation: SmallFederation) -> None:
    clock, phases = Clock(), []
    standing = standing_of(federation, clock, phases)

    def tell(*events: tuple[int, str, str]) -> None:
        for event in events:
            clock.now += 10
            standing.take(Event(*event))

    tell((1, "s0", "idle"), (1, "s1", "idle"), (1, "", "tuning"), (1, "s1", "tuned"))
    now = standing.snapshot()
    assert (now.now.round, now.now.phase, now.now.since) == (1, "tuning", 1030)
    schedule = federation.charter.schedule
    assert now.now.deadline == 1030 + schedule.tune_deadline_seconds
    assert [s.connected for s in now.silos[:3]] == [True, True, False]
    assert [s.ready for s in now.silos[:3]] == [False, True, False]
    assert now.silos[1].since == 1040
    assert (now.silos[1].traffic.received, now.traffic.received) == (7, 7)
    tell(
        (1, "", "advertise"), (1, "", "voided"), (1, "", "advertise"), (1, "s1", "away")
    )
    now = standing.snapshot()
    assert now.attempts_voided == 1
    assert not now.silos[1].connected
    assert not now.silos[1].ready
    assert now.now.deadline == 1070 + schedule.phase_deadline_seconds
    # Ready for one round isn't ready for the next.
    tell((1, "s0", "tuned"), (2, "", "tuning"))
    assert standing.snapshot().ready == 0
    assert phases == [
        ("starting", 30), ("tuning", 20), ("advertise", 10), ("voided", 10),
        ("advertise", 30),
    ]  # fmt: skip


async def test_after_a_run_it_knows_rounds_adapters_and_heads(
    federation: SmallFederation,
) -> None:
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    standing = Standing(federation.charter, folder, Traffic(), lambda: LEAF)
    hub = Aggregator(
        federation.charter,
        federation.approvals,
        federation.aggregator.signing,
        folder,
        on_event=standing.take,
    )
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for silo in federation.silos:
            group.create_task(federation.run_silo(silo, lambda: hub))
        await hub.run()
    standing.refresh()
    now = standing.snapshot()
    assert now.run.certified == now.run.rounds == 2
    names = tuple(row.name for row in federation.charter.roster)
    assert [r.outcome for r in now.rounds] == ["released", "released"]
    for ended in now.rounds:
        assert set(ended.contributors) <= set(names)
        assert len(ended.contributors) >= now.minimum
        weights = Path(ended.adapter or "") / "adapter_model.safetensors"
        assert weights.is_file()
        assert ended.seconds is not None
    assert tuple(head.silo for head in now.heads) == names
    assert all(head.entries > 2 for head in now.heads)
    assert now.now.phase == "ended"


def test_a_restarted_one_knows_what_is_on_the_disk(federation: SmallFederation) -> None:
    """Rounds come from certificates, which an earlier process wrote."""
    standing = standing_of(federation, Clock(), [])
    assert standing.snapshot().rounds == ()
    assert standing.snapshot().now.phase == "starting"
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    folder.enter(Progress(round=2, attempt=3, certified=0))
    restarted = standing_of(federation, Clock(), [])
    assert restarted.snapshot().now.round == 2


def test_it_says_when_every_certificate_ends(federation: SmallFederation) -> None:
    standing = standing_of(federation, Clock(), [])
    certificates = standing.snapshot().certificates
    assert (certificates[0].kind, certificates[0].ends) == ("leaf", LEAF.timestamp())
    issuers = certificates[1:]
    assert len(issuers) == 1 + len(federation.charter.roster)
    assert {c.kind for c in issuers} == {"issuer"}
    soon = (datetime.now(UTC) + timedelta(days=300)).timestamp()
    assert all(c.ends > soon for c in issuers)
