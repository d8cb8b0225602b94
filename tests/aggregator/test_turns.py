"""A silo that dials again while what it said before is still being written: its ledger is
taken in the order in which it said it, and nobody is called faulty for a slow disk."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path

import pytest
from small_federation import SmallFederation, found

from fedit_secure.aggregator.service import Aggregator
from fedit_secure.aggregator.turns import Turns
from fedit_secure.errors import ConnectError
from fedit_secure.federation.heads import sign_head
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.wire import frames as f

ENTRIES = (b"opened", b"intent")
SECONDS = 10


class Link:
    """One of a silo's connections; it says what it is given, until it breaks."""

    silo, name = 0, "s0"

    def __init__(self) -> None:
        self.told: list[f.Frame] = []
        self.says: asyncio.Queue[f.Frame | None] = asyncio.Queue()

    async def send(self, frame: f.Frame) -> None:
        self.told.append(frame)

    async def receive(self) -> f.Frame:
        if (frame := await self.says.get()) is None:
            raise ConnectError("gone")
        return frame

    async def close(self) -> None:
        """It has no end of its own."""


class SlowDisk:
    """The first page waits for `go` on its way to the disk."""

    def __init__(self, hub: Aggregator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._extend = hub._copies.extend
        monkeypatch.setattr(hub._copies, "extend", self.extend)

    def extend(self, silo: str, page: f.LedgerEntries) -> f.HeadReceipt | None:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(SECONDS)
        return self._extend(silo, page)


def page(federation: SmallFederation, count: int) -> f.LedgerEntries:
    """s0's whole ledger of so many entries, under its signed head."""
    chain = bytes(32)
    for entry in ENTRIES[:count]:
        chain = hashlib.sha256(chain + entry).digest()
    head = LedgerHead("s0", count, chain)
    signature = sign_head(federation.silos[0].signing, "s0", head)
    return f.LedgerEntries(0, ENTRIES[:count], head, signature)


def serve(federation: SmallFederation, hub: Aggregator, link: Link) -> asyncio.Task:
    digest = federation.charter.digest()
    hello = f.Hello("s0", digest, f.WIRE_VERSION, "0", 0, bytes(32), 0)
    return asyncio.create_task(hub.on_connect(link, hello))  # type: ignore[arg-type]


async def receipts(link: Link, count: int) -> list[int]:
    """The sequences of the first receipts that it was sent."""
    while True:
        heads = [each.head for each in link.told if isinstance(each, f.HeadReceipt)]
        if len(heads) >= count:
            return [head.sequence for head in heads]
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("ends", ["cancelled", "broken", "unnoticed"])
async def test_the_next_link_waits_for_what_the_last_one_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    federation = found(tmp_path, 3)
    hub, old, new = federation.new_aggregator(), Link(), Link()
    disk = SlowDisk(hub, monkeypatch)
    async with asyncio.timeout(SECONDS):
        first = serve(federation, hub, old)
        await old.says.put(page(federation, 1))
        assert await asyncio.to_thread(disk.begun.wait, SECONDS)
        if ends == "cancelled":
            first.cancel()
        elif ends == "broken":
            await old.says.put(None)
        second = serve(federation, hub, new)
        await new.says.put(page(federation, 2))
        await asyncio.sleep(0.1)
        assert hub._copies.sequence("s0") == 0
        disk.go.set()
        assert await receipts(new, 1) == [2]
        await new.says.put(None)
        await second
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert (tmp_path / "run/ledgers/s0.jsonl").read_bytes() == b"opened\nintent\n"


async def test_what_an_older_link_still_holds_comes_too_late(tmp_path: Path) -> None:
    federation = found(tmp_path, 3)
    hub, old, new = federation.new_aggregator(), Link(), Link()
    async with asyncio.timeout(SECONDS):
        first = serve(federation, hub, old)
        second = serve(federation, hub, new)
        await new.says.put(page(federation, 2))
        assert await receipts(new, 1) == [2]
        await old.says.put(page(federation, 1))
        await first  # neither taken nor blamed
        assert await receipts(old, 0) == []
        await new.says.put(page(federation, 2))  # the newest is still served
        assert await receipts(new, 2) == [2, 2]
        await new.says.put(None)
        await second


async def test_silos_dont_wait_for_each_other() -> None:
    turns, begun, go = Turns(), threading.Event(), threading.Event()

    def write() -> bool:
        begun.set()
        return go.wait(2 * SECONDS)

    async with asyncio.timeout(SECONDS):
        slow = asyncio.create_task(turns.take(0, write))
        assert await asyncio.to_thread(begun.wait, SECONDS)
        assert await turns.take(1, lambda: "done") == "done"
        assert not slow.done()
        go.set()
        assert await slow


async def test_what_the_work_raises_is_raised_and_the_next_goes_on() -> None:
    def fail() -> None:
        raise ConnectError("no")

    turns = Turns()
    with pytest.raises(ConnectError):
        await turns.take(0, fail)
    assert await turns.take(0, lambda: 1) == 1
