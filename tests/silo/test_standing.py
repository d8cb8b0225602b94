"""What a silo shows of itself, after events and after a whole run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_federation import POLICY, SmallFederation, found

from fedit_secure import log_fields
from fedit_secure.federation.admission import Account
from fedit_secure.silo.account import account_in
from fedit_secure.silo.accounting import Question, answer
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.standing import Standing
from fedit_secure.wire.traffic import Traffic

LEAF = datetime(2027, 1, 1, tzinfo=UTC)


class World:
    """Where a silo's books and clock are."""

    def __init__(self) -> None:
        self.now, self.certified, self.entries = 1000.0, 0, 0
        self.read = self.asked = 0
        self.phases: list[tuple[str, float]] = []

    def ask(self, question: Question) -> str:
        self.asked += 1
        return answer(question)

    def account(self) -> Account:
        self.read += 1
        return Account("s0", POLICY, None)


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 4, rounds=2)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def standing(federation: SmallFederation, world: World) -> Standing:
    traffic = Traffic()
    traffic.sent["hub:7443"] = 5
    return Standing(
        federation.charter,
        federation.silos[0].card,
        "hub:7443",
        traffic,
        world.account,
        lambda: (world.certified, world.entries),
        ask=world.ask,
        on_phase=lambda phase, seconds: world.phases.append((phase, seconds)),
        clock=lambda: world.now,
    )


def test_it_follows_the_events(standing: Standing, world: World) -> None:
    log_fields.begin(run="r")
    steps = [(1, "tuning"), (1, "loading"), (1, "ready"), (1, "tuning", 1, 3),
             (1, "tuning", 2, 3)]  # fmt: skip
    for step in steps:
        world.now += 10
        standing.take(*step)
    now = standing.snapshot().now
    assert (now.round, now.phase, now.step, now.steps) == (1, "tuning", 2, 3)
    assert now.since == 1040  # a step is no new phase
    assert log_fields.current() == {"run": "r", "round": 1, "phase": "tuning"}
    standing.take(1, "mask")
    # "tuning" before the worker says a step is loading: the worker isn't there yet.
    assert world.phases == [
        ("starting", 10),
        ("loading", 20),
        ("ready", 10),
        ("tuning", 10),
    ]
    assert standing.snapshot().now.steps == 0


def test_a_log_line_doesnt_say_how_far_the_worker_is(standing: Standing) -> None:
    """That depends on the records, and logs are shipped."""
    log_fields.begin(run="r")
    for phase in ("loading", "ready", "tuning"):
        standing.take(1, phase, 1, 3)
        assert log_fields.current()["phase"] == "tuning"


def test_it_says_whether_it_is_connected_and_since_when(
    standing: Standing, world: World
) -> None:
    assert not standing.snapshot().connected
    standing.dials(LEAF)
    world.now = 2000.0
    standing.connected()
    now = standing.snapshot()
    assert (now.connected, now.connection_since) == (True, 2000.0)
    world.now = 3000.0
    standing.connected()
    assert standing.snapshot().connection_since == 2000.0
    standing.dials(LEAF)
    now = standing.snapshot()
    assert (now.connected, now.connection_since) == (False, 3000.0)
    ends = {(c.party, c.kind): c.ends for c in now.certificates}
    assert ends["s0", "leaf"] == LEAF.timestamp()
    assert set(ends) == {("s0", "leaf"), ("s0", "issuer"), ("hub", "issuer")}
    assert now.traffic.sent == 5


def test_the_books_are_read_when_they_changed_and_now_and_then(
    standing: Standing, world: World
) -> None:
    for _ in range(3):
        standing.refresh()
    assert (world.read, world.asked) == (1, 1)
    world.entries = 1  # no charge: what is spent is known
    standing.refresh()
    standing.refresh()
    assert (world.read, world.asked) == (2, 1)
    world.now += 7200  # the policy's windows move on
    standing.refresh()
    assert (world.read, world.asked) == (3, 2)
    assert [(c.covers, c.spent, c.limit) for c in standing.snapshot().caps] == [
        ("in all", 0.0, 8.0)
    ]


async def test_after_a_run_it_knows_epsilon_rounds_and_head(
    federation: SmallFederation,
) -> None:
    hub = federation.new_aggregator()
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for silo in federation.silos:
            group.create_task(federation.run_silo(silo, lambda: hub))
        await hub.run()
    with open_journal(federation.root / "s0") as journal:
        standing = Standing(
            federation.charter,
            federation.silos[0].card,
            "hub:7443",
            Traffic(),
            lambda: account_in(journal, "s0", POLICY),
            lambda: (2, 9),
        )
        standing.refresh()
        now = standing.snapshot()
        ledger = account_in(journal, "s0", POLICY).ledger
    assert ledger is not None
    (lifetime,) = now.caps
    assert lifetime.spent == ledger.spent().published > 0
    assert (now.charges, now.planned) == (2, federation.charter.plan_for("s0").charges)
    assert now.run_epsilon == 8.0
    assert now.head is not None
    assert (now.head.entries, now.head.hash) == (ledger.sequence, ledger.hash.hex())
    assert [(r.round, r.outcome) for r in now.rounds] == [
        (1, "released"),
        (2, "released"),
    ]
    assert all(r.state and len(r.contributors) >= 3 for r in now.rounds)
