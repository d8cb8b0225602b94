"""The aggregator's copies of the silos' privacy ledgers, and its countersignature.

A silo samples its first record only after the aggregator has signed the ledger head that
holds the intent. So a silo can't forget a charge unseen: the copy here, and the heads that
every advert carries to the other silos, show it. The last head that both have signed lies
beside each copy, before the silo hears of it: it is what an auditor holds the copy against.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fedit_secure.errors import ConfigError, FaultySilo, StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import append_durably, make_folder, write_durably
from fedit_secure.federation.heads import SignedHead, check_head, sign_head
from fedit_secure.privacy.events import Opened, decode
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.wire.frames import HeadReceipt, LedgerEntries


class LedgerCopies:
    """One append-only file per silo, `<name>.jsonl`, chained as the silo chains it, and
    the last head that was signed and countersigned, `<name>.head`.

    Raises StorageError for a copy that was altered on this disk. One that was only cut
    short is filled again by its silo, which can't go back behind the head.

    A silo that is new here begins with the longest copy that another run left in one of
    the folders `earlier`, so that a ledger which went back between runs shows, too.
    """

    def __init__(
        self,
        folder: Path,
        charter: Charter,
        key: SigningKey,
        earlier: Sequence[Path] = (),
    ) -> None:
        self._folder = folder
        self._charter = charter
        self._key = key
        self._hashes: dict[str, list[bytes]] = {}
        self._signed: dict[str, SignedHead] = {}
        make_folder(folder)
        for row in charter.roster:
            path = self._path(row.name)
            if not path.exists():
                copies = (each / path.name for each in earlier)
                known = [_copy_of(copy, row.population) for copy in copies]
                if longest := max(known, key=len, default=b""):
                    write_durably(path, longest)
            whole, _, torn = (path.read_bytes() if path.exists() else b"").rpartition(
                b"\n"
            )
            if torn:  # a crash cut an append short; the silo sends that entry again
                write_durably(path, whole + b"\n" if whole else b"")
            chain = [bytes(32)]
            for entry in whole.split(b"\n") if whole else ():
                chain.append(_next(chain[-1], entry))
            self._hashes[row.name] = chain
            self._load_head(row.name)

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
        chain = self._hashes[silo]
        if page.first > len(chain) - 1:
            raise FaultySilo(silo, "its ledger page leaves entries out")
        fresh, links = [], chain[page.first : page.first + 1]
        for number, entry in enumerate(page.entries, page.first + 1):
            if not entry or b"\n" in entry:
                raise FaultySilo(silo, "its ledger entry isn't one line")
            links.append(_next(links[-1], entry))
            if number >= len(chain):
                fresh.append(entry)
            elif chain[number] != links[-1]:
                raise FaultySilo(silo, "its privacy ledger has forked")
        added = links[len(links) - len(fresh) :]
        held = len(chain) - 1 + len(added)
        last = added[-1] if added else chain[-1]
        known = self._signed.get(silo)
        least = max(held, known.sequence if known else 0)
        if page.head.sequence < least:
            what = (
                f"its privacy ledger went back: it has {page.head.sequence} entries, and "
                f"{least} are known here; was its state folder restored from a backup?"
            )
            raise FaultySilo(silo, what)
        if known is not None and not _lies_on(known, chain, added):
            raise FaultySilo(silo, "its privacy ledger has forked")
        if page.head.sequence == held and page.head.hash != last:
            raise FaultySilo(silo, "its privacy ledger misses its own head")
        append_durably(self._path(silo), b"".join(entry + b"\n" for entry in fresh))
        chain += added
        if page.head.sequence > held:
            return None
        receipt = HeadReceipt(page.head, sign_head(self._key, silo, page.head))
        self._keep_head(silo, page, receipt)
        return receipt

    def receipt(self, silo: str) -> HeadReceipt | None:
        """For everything that is held of this silo's ledger; None if that is nothing."""
        head = self.head(silo)
        if not head.sequence:
            return None
        return HeadReceipt(head, sign_head(self._key, silo, head))

    def head(self, silo: str) -> LedgerHead:
        """The head of the copy."""
        row, chain = self._charter.row(silo), self._hashes[silo]
        sequence = len(chain) - 1  # once: another thread may be extending it
        return LedgerHead(row.population, sequence, chain[sequence])

    def lies_on(self, silo: str, sequence: int, hash: bytes) -> bool | None:
        """Whether a head is on this silo's ledger; None beyond what both have signed, and
        what is here.
        """
        signed, chain = self._signed.get(silo), self._hashes[silo]
        if signed is None or sequence > min(signed.sequence, len(chain) - 1):
            return None
        return chain[sequence] == hash

    def _keep_head(self, silo: str, page: LedgerEntries, receipt: HeadReceipt) -> None:
        if page.head.sequence == 0:
            return  # there is nothing below it yet
        signed = SignedHead.of(silo, page.head, page.signature, receipt.signature)
        if self._signed.get(silo) != signed:
            write_durably(self._head_path(silo), signed.to_bytes())
            self._signed[silo] = signed

    def _load_head(self, silo: str) -> None:
        path = self._head_path(silo)
        if not path.exists():
            return
        try:
            signed = SignedHead.load(path)
        except ConfigError as error:
            raise StorageError(f"a copy of a ledger is damaged: {error}") from error
        # The silo isn't to blame for what this disk did to its copy.
        if signed.silo != silo or not _lies_on(signed, self._hashes[silo]):
            raise StorageError(
                f"the copy of the ledger of silo {silo!r}, {self._path(silo)}, isn't the "
                f"one under the head that was signed"
            )
        self._signed[silo] = signed

    def _path(self, silo: str) -> Path:
        return self._folder / f"{silo}.jsonl"

    def _head_path(self, silo: str) -> Path:
        return self._folder / f"{silo}.head"


def _lies_on(
    signed: SignedHead, chain: list[bytes], added: Sequence[bytes] = ()
) -> bool:
    """False if the chain, with what is added to it, is another one; one that ends before
    the head is unknown.
    """
    at = signed.sequence
    if at < len(chain):
        return chain[at].hex() == signed.hash
    rest = added[at - len(chain) : at - len(chain) + 1]
    return not rest or rest[0].hex() == signed.hash


def _copy_of(path: Path, population: str) -> bytes:
    """The whole entries of another run's copy, empty unless they are this population's.

    Raises StorageError if it is damaged: what a silo spent isn't to be forgotten for it.
    """
    if not path.exists():
        return b""
    try:
        whole, end, _ = path.read_bytes().rpartition(b"\n")
        first = decode(whole.partition(b"\n")[0]) if whole else None
    except (OSError, ValueError) as error:
        what = f"the copy of a ledger {path} can't be read: {error}"
        raise StorageError(what) from error
    ours = isinstance(first, Opened) and first.population == population
    return whole + end if ours else b""


def _next(previous: bytes, entry: bytes) -> bytes:
    return hashlib.sha256(previous + entry).digest()
