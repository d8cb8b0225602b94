"""The aggregator's copies of the silos' privacy ledgers, and its countersignature.

A silo samples its first record only after the aggregator has signed the ledger head that
holds the intent. So a silo can't forget a charge unseen: the copy here, and the heads that
every advert carries to the other silos, show it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedit_secure.errors import FaultySilo
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import append_durably, make_folder, write_durably
from fedit_secure.federation.heads import check_head, sign_head
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.wire.frames import HeadReceipt, LedgerEntries


class LedgerCopies:
    """One append-only file per silo, `<name>.jsonl`, chained as the silo chains it."""

    def __init__(self, folder: Path, charter: Charter, key: SigningKey) -> None:
        self._folder = folder
        self._charter = charter
        self._key = key
        self._hashes: dict[str, list[bytes]] = {}
        make_folder(folder)
        for row in charter.roster:
            path = self._path(row.name)
            whole, _, torn = (path.read_bytes() if path.exists() else b"").rpartition(
                b"\n"
            )
            if torn:  # a crash cut an append short; the silo sends that entry again
                write_durably(path, whole + b"\n" if whole else b"")
            chain = [bytes(32)]
            for entry in whole.splitlines():
                chain.append(_next(chain[-1], entry))
            self._hashes[row.name] = chain

    def sequence(self, silo: str) -> int:
        """How many entries of this silo's ledger are held."""
        return len(self._hashes[silo]) - 1

    def extend(self, silo: str, page: LedgerEntries) -> HeadReceipt | None:
        """Append a page; the receipt once every entry below its head is held.

        Raises FaultySilo if the page contradicts what is held, skips entries, or isn't
        under the silo's signed head.
        """
        row = self._charter.row(silo)
        check_head(silo, bytes.fromhex(row.identity), page.head, page.signature)
        if page.head.population != row.population:
            raise FaultySilo(silo, "its ledger is of another population")
        chain = list(self._hashes[silo])
        if page.first > len(chain) - 1:
            raise FaultySilo(silo, "its ledger page leaves entries out")
        fresh: list[bytes] = []
        for number, entry in enumerate(page.entries, page.first):
            if b"\n" in entry:
                raise FaultySilo(silo, "its ledger entry isn't one line")
            hash_after = _next(chain[number], entry)
            if number + 1 < len(chain):
                if chain[number + 1] != hash_after:
                    raise FaultySilo(silo, "its privacy ledger has forked")
            else:
                chain.append(hash_after)
                fresh.append(entry)
        held = len(chain) - 1
        if page.head.sequence < held:
            what = (
                f"its privacy ledger went back: it has {page.head.sequence} entries, and "
                f"{held} are known here; was its state folder restored from a backup?"
            )
            raise FaultySilo(silo, what)
        if page.head.sequence == held and page.head.hash != chain[-1]:
            raise FaultySilo(silo, "its privacy ledger misses its own head")
        append_durably(self._path(silo), b"".join(entry + b"\n" for entry in fresh))
        self._hashes[silo] = chain
        if page.head.sequence > held:
            return None
        return HeadReceipt(page.head, sign_head(self._key, silo, page.head))

    def head(self, silo: str) -> LedgerHead:
        """The head of the copy."""
        row, chain = self._charter.row(silo), self._hashes[silo]
        return LedgerHead(row.population, len(chain) - 1, chain[-1])

    def _path(self, silo: str) -> Path:
        return self._folder / f"{silo}.jsonl"


def _next(previous: bytes, entry: bytes) -> bytes:
    return hashlib.sha256(previous + entry).digest()
