"""No record is sampled before its charge is on the disk and countersigned."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import small_federation
from small_federation import FaultyLink, SmallFederation, found

from fedit_secure.storage.journal import Journal
from fedit_secure.wire.frames import Frame, HeadReceipt

INTENT = 2  # the ledger's second entry: the first opens it


def durable_intents(federation: SmallFederation, silo: str) -> int:
    path = federation.root / silo / "journal.sqlite"
    with Journal.open(path, read_only=True) as journal:
        return sum(json.loads(e)["kind"] == "intent" for e in journal.ledger(silo))


async def test_a_silo_waits_for_the_countersignature_of_its_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: set[str] = set()
    all_came, given = asyncio.Event(), asyncio.Event()

    class Withholding(FaultyLink):
        """Keeps back every countersignature of a charge until it is `given`."""

        async def receive(self) -> Frame:
            frame = await self.inner.receive()
            if isinstance(frame, HeadReceipt) and frame.head.sequence >= INTENT:
                came.add(frame.head.population)
                if len(came) == len(federation.silos):
                    all_came.set()
                await given.wait()
            return frame

    monkeypatch.setattr(small_federation, "FaultyLink", Withholding)
    federation = found(tmp_path, 3, phase_deadline_seconds=20, silo_deadline_seconds=40)
    hub = federation.new_aggregator()
    names = [party.name for party in federation.silos]
    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        for party in federation.silos:
            group.create_task(federation.run_silo(party, lambda: hub))
        running = group.create_task(hub.run())
        await all_came.wait()
        # The charges are durable and acknowledged, and nobody has heard of it yet.
        await asyncio.sleep(0.3)
        assert [durable_intents(federation, name) for name in names] == [1, 1, 1]
        assert federation.updates == {}
        given.set()
        await running
    assert sorted(federation.updates) == [(name, 1) for name in names]
