"""Hands a silo's ledger on to the aggregator, and knows what it has signed for.

A charge counts once the aggregator holds it: nothing is sampled before. So whatever was
sampled is in the aggregator's copy, and a silo that loses its disk can get it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.heads import check_head
from fedit_secure.silo.books import Books
from fedit_secure.wire import frames as f


class Countersigning:
    """See the module; for one daemon, over all its connections."""

    def __init__(self, charter: Charter, name: str, books: Books) -> None:
        self._name, self._books = name, books
        self._aggregator = bytes.fromhex(charter.aggregator.identity)
        self._held = 0
        self._news = asyncio.Event()

    async def meet(self, receipt: f.HeadReceipt | None) -> None:
        """What the aggregator holds at the start of a connection; None: nothing.

        Opens a ledger that is new, now that nobody knows of an older one. Raises
        LedgerBehind, which ends the daemon, if the aggregator knows more than is here.
        """
        self._hold(0 if receipt is None else self._known(receipt))
        await asyncio.to_thread(self._books.open)

    def pages(self) -> Iterator[f.LedgerEntries]:
        """Every entry that isn't receipted yet; the head alone, if all are."""
        head, signature, entries = self._books.signed_ledger(self._held)
        return f.ledger_pages(self._held, entries, head, signature)

    def take(self, receipt: f.HeadReceipt) -> None:
        """Keep a receipt for all of the ledger. Raises as `meet`."""
        self._hold(self._known(receipt))
        if receipt.head == self._books.head():
            self._books.countersigned(receipt.head, receipt.signature)

    async def signed(self, sequence: int) -> None:
        """Wait until the aggregator has signed that it holds this many entries.

        By their number: a receipt that comes while a charge is being written is one for
        the head before it.
        """
        while self._held < sequence:
            self._news.clear()
            await self._news.wait()

    def _hold(self, sequence: int) -> None:
        self._held = sequence
        self._news.set()

    def _known(self, receipt: f.HeadReceipt) -> int:
        check_head(self._name, self._aggregator, receipt.head, receipt.signature)
        self._books.require_known(receipt.head)
        return receipt.head.sequence
