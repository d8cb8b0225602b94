"""Nothing is sampled before the aggregator has countersigned the charge for it.

Else a silo whose disk is put back to before the charge could tune again as if it hadn't:
nobody else would know better.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import small_federation
from small_federation import SmallFederation, found

from fedit_secure.errors import ConnectError, LedgerBehind, QuorumLost
from fedit_secure.federation.heads import sign_head
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import SiloDaemon
from fedit_secure.wire import frames as f
from fedit_secure.wire.link import PeerLink

SILO = "s0"


@dataclass
class Countersigner:
    """An aggregator by script: it offers round 1, and answers the charge with `wrong`
    receipts; once `honest` is set, with the right one."""

    federation: SmallFederation
    wrong: Callable[[Countersigner, m.LedgerHead], list[f.HeadReceipt]]
    opening: list[f.HeadReceipt] = field(default_factory=list)
    charged: asyncio.Event = field(default_factory=asyncio.Event)
    honest: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, address: bytes) -> bytes | None:
        initial = self.federation.initial
        return initial.to_bytes() if address == initial.digest() else None

    def receipt(self, head: m.LedgerHead, silo: str = SILO) -> f.HeadReceipt:
        key = self.federation.aggregator.signing
        return f.HeadReceipt(head, sign_head(key, silo, head))

    async def on_connect(self, link: PeerLink, _hello: f.Frame) -> None:
        approvals = tuple(a.to_bytes() for a in self.federation.approvals)
        state = self.federation.initial.digest()
        offer = m.Offer(self.federation.charter.digest(), 1, 1, state)
        signed = checks.sign(self.federation.aggregator.signing, offer)
        with suppress(ConnectError):  # the silo has ended already
            await link.send(f.Welcome(approvals, None, 1, state))
            opened = await self._ledger(link)
            self.opening = [self.receipt(opened.head)]
            await link.send(self.opening[0])
            await link.send(f.RoundOffer(signed, None, approvals))
            page = await self._ledger(link)
            assert json.loads(page.entries[-1])["kind"] == "intent"
            for receipt in self.wrong(self, page.head):
                await link.send(receipt)
            self.charged.set()
            await self.honest.wait()
            await link.send(self.receipt(page.head))
            while not isinstance(await link.receive(), f.Ready):
                pass
            await link.send(f.CannotServe("the play is over", QuorumLost.exit_status))
            await link.close()

    async def _ledger(self, link: PeerLink) -> f.LedgerEntries:
        while not isinstance(frame := await link.receive(), f.LedgerEntries):
            pass
        return frame


WRONG: dict[str, Callable[[Countersigner, m.LedgerHead], list[f.HeadReceipt]]] = {
    "none": lambda _, head: [],
    "of the head before": lambda script, head: script.opening,
    "of a head to come": lambda script, head: [
        script.receipt(replace(head, sequence=head.sequence + 1))
    ],
    "of a fork": lambda script, head: [script.receipt(replace(head, hash=bytes(32)))],
    "of another silo": lambda script, head: [script.receipt(head, "s1")],
    "unsigned": lambda _, head: [f.HeadReceipt(head, bytes(64))],
}


ANOTHER_HISTORY = {"of a head to come", "of a fork"}
"""The aggregator signs that it holds entries which this ledger lacks: the daemon ends."""


@pytest.mark.parametrize("wrong", WRONG)
async def test_nothing_is_sampled_before_the_charge_is_countersigned(
    tmp_path: Path, wrong: str
) -> None:
    federation = found(tmp_path, 4)
    script = Countersigner(federation, WRONG[wrong])
    await _waits(federation, script, ends=wrong in ANOTHER_HISTORY)


async def test_a_receipt_that_comes_while_the_charge_is_written_is_not_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of the head before: an aggregator that writes it down slowly sends it late."""
    federation = found(tmp_path, 4)
    script = Countersigner(federation, WRONG["none"])
    loop, daemons = asyncio.get_running_loop(), []

    class Seen(SiloDaemon):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            daemons.append(self)

    right = Books.reserve

    def reserve(books: Books, round: int) -> None:
        late = daemons[0]._take(script.opening[0])
        asyncio.run_coroutine_threadsafe(late, loop).result(30)
        right(books, round)

    monkeypatch.setattr(small_federation, "SiloDaemon", Seen)
    monkeypatch.setattr(Books, "reserve", reserve)
    await _waits(federation, script)


async def _waits(
    federation: SmallFederation, script: Countersigner, *, ends: bool = False
) -> None:
    """The silo samples nothing until the script is honest, and then once; or `ends`."""
    party = federation.silos[0]
    running = asyncio.create_task(federation.run_silo(party, lambda: script))  # type: ignore[arg-type, return-value]
    async with asyncio.timeout(120):
        await script.charged.wait()
        await asyncio.sleep(0.5)  # what a silo that doesn't wait needs, and far more
        assert federation.updates == {}
        script.honest.set()
        if ends:
            with pytest.raises(LedgerBehind):
                await running
            assert federation.updates == {}
            return
        with pytest.raises(QuorumLost, match="the play is over"):
            await running
    assert len(federation.updates[SILO, 1]) == 1
