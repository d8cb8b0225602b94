"""What travels between a silo and the aggregator, beside the messages of one release.

Frames are frozen values without any logic of the protocol: they bring the two ends to
the same round and state, replicate ledgers, and say how things go. A `Frame` is one of
them or a secagg message. Text in a frame is for people: at most 500 printable
characters, so that no peer can write control sequences to an operator's terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fedit_secure.errors import (
    FeditError,
    PolicyRefusal,
    ProtocolError,
    QuorumLost,
    TurnedAway,
)
from fedit_secure.secagg import messages as m

WIRE_VERSION = 1
MAX_TEXT = 500
MAX_ENTRY = 64 * 1024  # bytes of one ledger entry
MAX_CLAIM = 16 * 1024  # bytes of a claim's file
MAX_PAGE = 256 * 1024  # bytes of the entries in one LedgerEntries
MAX_PAGE_ENTRIES = 1024

PHASES = (
    "idle",
    "tuning",
    "tuned",
    "advertise",
    "share",
    "mask",
    "agree",
    "reveal",
    "release",
    "confirm",
    "applied",
    "skipped",
)


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """`text` with every unprintable character replaced, cut to `limit` characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[
        :limit
    ]


@dataclass(frozen=True, slots=True)
class Hello:
    """A silo's first frame: who it is, and the last round whose state it holds."""

    silo: str
    charter: bytes
    wire_version: int
    package_version: str
    round: int
    state_digest: bytes
    ledger_sequence: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to a Hello: all approvals, and the last round with its certificate.

    `held`: the head up to which the aggregator holds the silo's ledger, None if it
    holds nothing of it.
    """

    approvals: tuple[bytes, ...]
    certificate: m.RoundCertificate | None
    round: int
    state_digest: bytes
    held: HeadReceipt | None = None


@dataclass(frozen=True, slots=True)
class CannotServe:
    """The answer to a Hello, or to a connection that a newer one replaced: go away."""

    reason: str
    exit_status: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))

    def error(self) -> FeditError:
        """The reason, as the error with the exit status that it names."""
        # Not ConnectError: it would be dialled again.
        for kind in (ProtocolError, TurnedAway, PolicyRefusal, QuorumLost):
            if kind.exit_status == self.exit_status:
                return kind(self.reason)
        return PolicyRefusal(self.reason)


@dataclass(frozen=True, slots=True)
class RoundOffer:
    """The aggregator's offer, the previous round's certificate and all approvals."""

    offer: m.Offer
    certificate: m.RoundCertificate | None
    approvals: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LedgerEntries:
    """A page of a silo's ledger, from entry `first` on, below its signed head."""

    first: int
    entries: tuple[bytes, ...]
    head: m.LedgerHead
    signature: bytes


@dataclass(frozen=True, slots=True)
class HeadReceipt:
    """The aggregator holds every entry up to this head, and countersigns it."""

    head: m.LedgerHead
    signature: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """The silo's update for the round is tuned, encoded and waiting."""

    round: int


@dataclass(frozen=True, slots=True)
class Phase:
    """Where the sender is in the round; `name` is one of `PHASES`."""

    round: int
    name: str

    def __post_init__(self) -> None:
        if self.name not in PHASES:
            raise ValueError(f"unknown phase {self.name[:40]!r}")


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The sender leaves one attempt of a round, and stays for the next."""

    round: int
    attempt: int
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))


@dataclass(frozen=True, slots=True)
class Refused:
    """The silo takes no part in this round."""

    round: int
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over; `state_digest` is the state after `round`."""

    round: int
    state_digest: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What the silo's charges cost, by its own word: a `federation.claim.Claim`'s file.

    It comes when the silo has adopted the last round, and whenever it connects after it.
    """

    document: bytes


Frame: TypeAlias = (
    m.Sent
    | Hello
    | Welcome
    | CannotServe
    | RoundOffer
    | LedgerEntries
    | HeadReceipt
    | Ready
    | Phase
    | Withdraw
    | Refused
    | RunEnded
    | Claim
)

# Phase, Withdraw and Confirmation travel both ways. What is in neither set is local.
FROM_SILO: frozenset[type] = frozenset(
    {
        Hello,
        LedgerEntries,
        Ready,
        Phase,
        Withdraw,
        Refused,
        Claim,
        m.Advert,
        m.ShareBundle,
        m.MaskedUpload,
        m.Agreement,
        m.Reveal,
        m.VoidStatement,
        m.Confirmation,
    }
)
FROM_AGGREGATOR: frozenset[type] = frozenset(
    {
        Welcome,
        CannotServe,
        RoundOffer,
        HeadReceipt,
        Phase,
        Withdraw,
        RunEnded,
        m.Offer,
        m.AdvertSet,
        m.ShareSet,
        m.UploadAck,
        m.SurvivorSet,
        m.AgreementSet,
        m.PublishedSum,
        m.Confirmation,
        m.VoidRequest,
        m.VoidCertificate,
        m.SkipRequest,
        m.RoundCertificate,
    }
)


def ledger_pages(
    first: int, entries: Sequence[bytes], head: m.LedgerHead, signature: bytes
) -> Iterator[LedgerEntries]:
    """The entries from sequence `first` on in frames of at most 256 KiB of entries.

    Every page carries the same signed head. No entries give one empty page: the head
    alone is news too.
    """
    page: list[bytes] = []
    size = 0
    for number, entry in enumerate(entries):
        if page and (size + len(entry) > MAX_PAGE or len(page) == MAX_PAGE_ENTRIES):
            yield LedgerEntries(
                first + number - len(page), tuple(page), head, signature
            )
            page, size = [], 0
        page.append(entry)
        size += len(entry)
    start = first + len(entries) - len(page)
    yield LedgerEntries(start, tuple(page), head, signature)
