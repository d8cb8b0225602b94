"""Which receipts let a silo sample: those that cover the charge, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_federation import SmallFederation, found

from fedit_secure.errors import FaultySiloOrAggregator, LedgerBehind
from fedit_secure.federation.heads import sign_head
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.books import Books, open_journal
from fedit_secure.silo.countersigning import Countersigning
from fedit_secure.wire.frames import HeadReceipt

NAME = "s0"


class Silo:
    """One silo's books, and the aggregator's signature under any head."""

    def __init__(self, federation: SmallFederation, books: Books) -> None:
        self.federation, self.books = federation, books
        self.countersigning = Countersigning(federation.charter, NAME, books)

    def receipt(self, head: LedgerHead | None = None) -> HeadReceipt:
        key, at = self.federation.aggregator.signing, head or self.books.head()
        return HeadReceipt(at, sign_head(key, NAME, at))

    async def free(self, sequence: int) -> bool:
        """Whether it may sample now."""
        try:
            async with asyncio.timeout(0.05):
                await self.countersigning.signed(sequence)
        except TimeoutError:
            return False
        return True


@pytest.fixture
def silo(tmp_path: Path) -> Iterator[Silo]:
    federation = found(tmp_path, 3)
    with open_journal(tmp_path / NAME) as journal:
        books = federation.books(federation.silos[0], journal)
        books.check(bytes(32))
        yield Silo(federation, books)


async def test_a_receipt_for_the_head_before_the_charge_frees_nothing(
    silo: Silo,
) -> None:
    """It may arrive while the charge is being written, as late as can be."""
    await silo.countersigning.meet(None)
    earlier = silo.receipt()
    silo.countersigning.take(earlier)
    silo.books.reserve(1)
    charged = silo.books.sequence
    assert not await silo.free(charged)
    silo.countersigning.take(earlier)
    assert not await silo.free(charged)
    silo.countersigning.take(silo.receipt())
    assert await silo.free(charged)


async def test_who_waits_is_woken(silo: Silo) -> None:
    await silo.countersigning.meet(None)
    silo.books.reserve(1)
    waiting = asyncio.create_task(silo.countersigning.signed(silo.books.sequence))
    await asyncio.sleep(0)
    silo.countersigning.take(silo.receipt())
    async with asyncio.timeout(60):
        await waiting


async def test_a_new_connection_says_what_is_held(silo: Silo) -> None:
    """The receipt was lost with the old one; the Welcome covers the charge as well."""
    await silo.countersigning.meet(None)
    before = silo.receipt()
    silo.books.reserve(1)
    charged = silo.books.sequence
    await silo.countersigning.meet(before)
    assert not await silo.free(charged)
    assert [page.first for page in silo.countersigning.pages()] == [1]
    await silo.countersigning.meet(silo.receipt())
    assert await silo.free(charged)
    (page,) = silo.countersigning.pages()
    assert (page.first, page.entries) == (2, ())


async def test_nothing_is_written_before_it_has_met(silo: Silo) -> None:
    known = silo.receipt(LedgerHead(NAME, 4, b"h" * 32))
    for _ in range(2):
        with pytest.raises(LedgerBehind):
            await silo.countersigning.meet(known)
        assert silo.books.sequence == 0
    await silo.countersigning.meet(None)
    assert silo.books.sequence == 1


async def test_a_receipt_that_the_aggregator_did_not_sign(silo: Silo) -> None:
    await silo.countersigning.meet(None)
    silo.books.reserve(1)
    own = silo.federation.silos[0].signing
    forged = HeadReceipt(silo.books.head(), sign_head(own, NAME, silo.books.head()))
    with pytest.raises(FaultySiloOrAggregator):
        silo.countersigning.take(forged)
    assert not await silo.free(silo.books.sequence)
