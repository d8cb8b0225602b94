"""What a silo holds for an auditor by itself: its ledger, and what it saw of the others.

Held beside the aggregator's bundle it shows whether both tell one history.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedit_secure.audit.bundle import SeenHead, SeenHeads, SignedHead
from fedit_secure.audit.evidence.enclosures import card_pieces
from fedit_secure.audit.evidence.export import Evidence, Piece
from fedit_secure.errors import (
    ConfigError,
    FaultySiloOrAggregator,
    FeditError,
    StorageError,
)
from fedit_secure.federation.approval import Approval, verify_approval
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim
from fedit_secure.federation.heads import check_head, sign_head
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.storage.journal import Journal
from fedit_secure.wire.codec import decode
from fedit_secure.wire.frames import HeadReceipt
from fedit_secure.wire.limits import Limits


def silo_evidence(
    journal: Journal,
    charter: Charter,
    name: str,
    key: SigningKey,
    *,
    ledger: Ledger,
    claim: Claim,
    approval: Path,
    cards: Sequence[Card] = (),
) -> Evidence:
    """The pieces of silo `name`'s bundle.

    `ledger` is its population's, whole, and `claim` about all of it. `approval` is the
    file that this silo's operator signed. The journal may be a running daemon's.

    Raises:
        ConfigError: the approval isn't this silo's of this charter.
        StorageError: the journal can't be read.
    """
    head = LedgerHead(ledger.population, ledger.sequence, ledger.hash)
    counter = _countersignature(journal, charter, name, head)
    signed = SignedHead.of(name, head, sign_head(key, name, head), counter)
    lines = b"".join(entry + b"\n" for entry in ledger.entries)
    pieces = (
        Piece("charter.json", charter.to_bytes()),
        Piece(f"approvals/{name}.approval", _approval(approval, charter, name)),
        *card_pieces(cards),
        Piece(f"ledgers/{name}.jsonl", lines),
        Piece(f"heads/{name}.json", signed.to_bytes()),
        Piece(f"claims/{name}.claim", claim.to_bytes()),
        Piece(f"seen/{name}.json", _seen(journal).to_bytes()),
    )
    lack = "the aggregator's signature under the head of the ledger"
    return Evidence(pieces, None, () if counter else (lack,))


def _approval(path: Path, charter: Charter, name: str) -> bytes:
    approval = Approval.load(path)
    try:
        if approval.name != name:
            raise ConfigError(f"it is that of silo {approval.name!r}")
        verify_approval(charter, approval)
    except FeditError as error:
        raise ConfigError(f"the approval {path} doesn't do: {error}") from error
    return approval.to_bytes()


def _countersignature(
    journal: Journal, charter: Charter, name: str, head: LedgerHead
) -> bytes | None:
    """The aggregator's under exactly this head. A ledger that went on since the receipt,
    or whose receipt is another aggregator's, has none.
    """
    data = journal.receipt(head.population)
    if data is None:
        return None
    receipt = decode(data, Limits.of(charter.secagg_params()))
    if not isinstance(receipt, HeadReceipt):
        raise StorageError(f"the receipt in {journal.path} isn't one")
    if receipt.head != head:
        return None
    key = bytes.fromhex(charter.aggregator.identity)
    try:
        check_head(name, key, head, receipt.signature)
    except FaultySiloOrAggregator:
        return None
    return receipt.signature


def _seen(journal: Journal) -> SeenHeads:
    found = sorted(journal.peer_heads().items())
    return SeenHeads(
        heads=tuple(
            SeenHead(
                silo=silo,
                population=population,
                sequence=head.sequence,
                hash=head.hash.hex(),
            )
            for (silo, population), head in found
            if head.sequence >= 0
        )
    )
