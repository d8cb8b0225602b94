"""The operator's order to stop, and what the aggregator and its silos make of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator import serve
from fedit_secure.aggregator.course import Course
from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.aggregator.standing import Standing
from fedit_secure.errors import PolicyRefusal, StorageError
from fedit_secure.federation.update import GridState
from fedit_secure.storage.stop_order import StopOrder, stop_path
from fedit_secure.wire.traffic import Traffic

ORDER = StopOrder("the study is over", at_once=False, day="2026-05-02")
TOLD = "the aggregator's operator stopped the run"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(serve, "GOODBYE_SECONDS", 0.1)


async def life(
    federation: SmallFederation,
    orders: Path,
    order: StopOrder | None,
    at: tuple[int, str],
    tune_seconds: float = 0.0,
) -> tuple[list[object], Standing]:
    """One life of all daemons; the order comes at an event of the aggregator's own."""

    def take(event: Event) -> None:
        standing.take(event)
        if order is not None and (event.silo, event.round, event.phase) == ("", *at):
            order.save(orders)

    charter = federation.charter
    folder = RunFolder(federation.root / "run", charter, federation.initial)
    standing = Standing(charter, folder, Traffic(), lambda: datetime.now(UTC))
    key = federation.aggregator.signing
    course = Course(take, lambda: folder.progress.open)
    hub = Aggregator(charter, federation.approvals, key, folder, on_event=course.told)
    given = (hub, folder, orders, standing, course, lambda stage: None)

    async def aggregator() -> GridState | str:
        try:
            return await serve._until_stopped(*given)
        except SystemExit as ended:  # which a task would let end the loop
            return f"status {ended.code}"

    silos = [
        federation.run_silo(silo, lambda: hub, tune_seconds=tune_seconds)
        for silo in federation.silos
    ]
    async with asyncio.timeout(120):
        ends = await asyncio.gather(aggregator(), *silos, return_exceptions=True)
    return ends, standing


def refused(ends: list[object], after: str) -> None:
    status, *silos = ends
    assert status == "status 0"
    assert len(silos) == 4
    for end in silos:
        assert isinstance(end, PolicyRefusal)
        assert str(end) == f"{TOLD} {after}: the study is over"


async def test_after_the_round_nobody_is_left_with_half_of_one(tmp_path: Path) -> None:
    federation, orders = found(tmp_path, 4, rounds=3), tmp_path / "order"
    ends, standing = await life(federation, orders, ORDER, (2, "mask"))
    refused(ends, "after round 2")
    now = standing.snapshot()
    assert (now.run.certified, now.daemon.state) == (2, "stopped")
    assert now.daemon.why.startswith(TOLD)
    # Withdrawn, the run goes on to its end from there.
    orders.unlink()
    ends, standing = await life(federation, orders, None, (0, ""))
    assert all(isinstance(end, GridState) for end in ends)
    assert standing.snapshot().run.certified == 3
    assert sorted(federation.updates) == [
        (f"s{i}", round) for i in range(4) for round in (1, 2, 3)
    ]
    assert all(len(tuned) == 1 for tuned in federation.updates.values())


async def test_at_once_doesnt_wait_for_tuning(tmp_path: Path) -> None:
    federation, orders = found(tmp_path, 4), tmp_path / "order"
    order = StopOrder(ORDER.reason, at_once=True, day=ORDER.day)
    ends, standing = await life(
        federation, orders, order, (1, "tuning"), tune_seconds=100_000
    )
    refused(ends, "before its first round ended")
    assert standing.snapshot().run.certified == 0


async def test_in_the_last_round_an_order_changes_nothing(tmp_path: Path) -> None:
    federation, orders = found(tmp_path, 4), tmp_path / "order"
    ends, standing = await life(federation, orders, ORDER, (1, "mask"))
    assert all(isinstance(end, GridState) for end in ends)
    assert standing.has_ended


def test_an_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = stop_path(tmp_path, "ab" * 32)
    assert StopOrder.load(path) is None
    ORDER.save(path)
    assert StopOrder.load(path) == ORDER
    assert path.name == "abababababababab.stop"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"reason": "x"}', b"\xff"])
def test_an_order_that_cant_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = stop_path(tmp_path, "ab" * 32)
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"abababababababab\.stop is damaged"):
        StopOrder.load(path)
