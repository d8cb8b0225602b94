"""The aggregator's own disk refuses while a silo is served: the run ends, and no silo is to
blame for it or turned away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from small_federation import SmallFederation, found

from fedit_secure.errors import ConnectError, StorageError
from fedit_secure.wire import frames as f

FULL = StorageError("ledgers/s0.jsonl can't be written: No space left on device")


class Silo:
    """A link over which a silo sends its ledger."""

    silo, name = 0, "s0"

    def __init__(self, federation: SmallFederation) -> None:
        self.told: list[f.Frame] = []
        self._said = False
        self.hello = f.Hello(
            self.name, federation.charter.digest(), f.WIRE_VERSION, "0", 0, bytes(32), 0
        )

    async def send(self, frame: f.Frame) -> None:
        self.told.append(frame)

    async def receive(self) -> f.Frame:
        if self._said:
            raise ConnectError("gone")
        self._said = True
        return f.LedgerEntries(0, (), None, b"")  # type: ignore[arg-type]

    async def close(self) -> None:
        """It has no end of its own."""


@pytest.mark.parametrize("before", [True, False], ids=["before-the-run", "in-the-run"])
async def test_the_run_ends_and_no_silo_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    federation = found(tmp_path, 4)
    hub, silo = federation.new_aggregator(), Silo(federation)

    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(hub._copies, "extend", full)
    if before:
        await hub.on_connect(silo, silo.hello)  # type: ignore[arg-type]
    running = asyncio.create_task(hub.run())
    if not before:
        await asyncio.sleep(0)
        assert not running.done()
        await hub.on_connect(silo, silo.hello)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="No space left on device"):
        async with asyncio.timeout(60):
            await running
    assert {type(frame) for frame in silo.told} <= {f.Welcome, f.RoundOffer}
    assert not running.cancelled()


async def test_a_run_that_is_stopped_is_still_cancelled(tmp_path: Path) -> None:
    running = asyncio.create_task(found(tmp_path, 4).new_aggregator().run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
