"""The frozen messages and effects of one release.

Messages name silos by roster index. `ctx` (32 bytes) binds a message to the charter, the
round, the attempt, the global state and the codec; `key_set` is K, the hash of the sorted
adverts. A `Signed` message's signature covers `signed_digest()`: its label and every
field but signatures, in the order written here. States, which hold secrets, live in
states.py and never leave the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg.transcript import Signed, digest, encode, u64

Blob: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """A silo's privacy ledger as it stands: its population, entry count and chain hash."""

    population: str
    sequence: int
    hash: bytes


# ------------------------------------------------------------- signed by the aggregator


@dataclass(frozen=True, slots=True)
class Offer(Signed):
    """Opens an attempt (from 1) of a round (from 1) on one global state."""

    label = "fedit/offer/v1"
    charter: bytes
    round: int
    attempt: int
    state_digest: bytes


@dataclass(frozen=True, slots=True)
class AdvertSet(Signed):
    """U1: the adverts of the attempt, sorted by silo."""

    label = "fedit/u1/v1"
    ctx: bytes
    adverts: tuple[Advert, ...]

    def key_set(self) -> bytes:
        """K, which omits the adverts' signatures."""
        return digest("fedit/keyset/v1", self.ctx, encode(self.adverts))


@dataclass(frozen=True, slots=True)
class ShareSet(Signed):
    """U2: the statements of every dealer in it, and their envelopes to one holder."""

    label = "fedit/u2/v1"
    ctx: bytes
    key_set: bytes
    statements: tuple[ShareStatement, ...]
    envelopes: tuple[tuple[int, bytes], ...]  # (dealer, ciphertext), the own left out


@dataclass(frozen=True, slots=True)
class UploadAck(Signed):
    """The aggregator holds the whole upload with this header."""

    label = "fedit/ack/v1"
    ctx: bytes
    silo: int
    header_digest: bytes


@dataclass(frozen=True, slots=True)
class SurvivorSet(Signed):
    """U3: the headers of the uploads that are whole, sorted by silo."""

    label = "fedit/u3/v1"
    ctx: bytes
    headers: tuple[UploadHeader, ...]

    def silos(self) -> tuple[int, ...]:
        return tuple(h.silo for h in self.headers)

    def headers_digest(self) -> bytes:
        return digest("fedit/headers/v1", *(h.signed_digest() for h in self.headers))


@dataclass(frozen=True, slots=True)
class PublishedSum(Signed):
    """The sum X over U3 as int32 integers of shape (length,), its tag, and the quorum."""

    label = "fedit/published/v1"
    ctx: bytes
    key_set: bytes
    contributors: tuple[int, ...]
    total: NDArray[np.int32]
    tag: int
    agreements: tuple[Agreement, ...]

    def release_digest(self) -> bytes:
        """H(ctx, K, U3, X): what a confirmation commits to."""
        x = np.ascontiguousarray(self.total, dtype="<i4")
        u3 = silo_set(self.contributors)
        return digest("fedit/release/v1", self.ctx, self.key_set, u3, x.data.cast("B"))

    def signed_digest(self) -> bytes:
        """Covers X through the release digest, so that it is hashed in place."""
        rest = (u64(self.tag), encode(self.agreements))
        return digest(self.label, self.release_digest(), *rest)


@dataclass(frozen=True, slots=True)
class VoidRequest(Signed):
    """Asks every silo to close an attempt that can't end in a sum."""

    label = "fedit/void-request/v1"
    ctx: bytes


@dataclass(frozen=True, slots=True)
class SkipRequest(Signed):
    """Asks every silo to close a round without a release, its state unchanged."""

    label = "fedit/skip/v1"
    charter: bytes
    round: int
    state_digest: bytes


# -------------------------------------------------------------------- signed by a silo


@dataclass(frozen=True, slots=True)
class Advert(Signed):
    """A silo's single-use public keys, its commitments and its ledger head."""

    label = "fedit/advert/v1"
    silo: int
    ctx: bytes
    mask_key: bytes
    envelope_key: bytes
    self_commitment: bytes
    group_commitment: bytes
    ledger_head: LedgerHead


@dataclass(frozen=True, slots=True)
class ShareStatement(Signed):
    """What a dealer signs of its shares: per holder the envelope's hash (b"" for itself)
    and the commitments to the holder's two shares, all in the order of `holders`."""

    label = "fedit/shares/v1"
    dealer: int
    ctx: bytes
    key_set: bytes
    holders: tuple[int, ...]
    envelope_hashes: tuple[bytes, ...]
    self_commitments: tuple[bytes, ...]
    key_commitments: tuple[bytes, ...]

    @property
    def silo(self) -> int:
        return self.dealer


@dataclass(frozen=True, slots=True)
class ShareBundle:
    """A dealer's statement with the envelopes it speaks of: (holder, ciphertext)."""

    statement: ShareStatement
    envelopes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class UploadHeader(Signed):
    """What a silo signs of its masked upload: `length` bytes with this digest."""

    label = "fedit/upload/v1"
    silo: int
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes  # H(U2)
    length: int
    payload_digest: bytes


@dataclass(frozen=True, slots=True)
class MaskedUpload:
    """The packed masked vector, then the masked tag as 8 little-endian bytes."""

    header: UploadHeader
    payload: Blob


@dataclass(frozen=True, slots=True)
class Agreement(Signed):
    """A masked silo's one signature on the set of survivors."""

    label = "fedit/agree/v1"
    silo: int
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes  # H(U2)
    survivors_digest: bytes  # H(U3)
    headers_digest: bytes

    def content(self) -> tuple[bytes, ...]:
        """What a quorum must sign in common: all but who signs it."""
        sets = (self.dealers_digest, self.survivors_digest, self.headers_digest)
        return (self.ctx, self.key_set, *sets)


@dataclass(frozen=True, slots=True)
class AgreementSet:
    """The quorum of agreements, relayed."""

    ctx: bytes
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class Reveal(Signed):
    """One share per peer: of its self-mask seed if it survived, else of its mask key."""

    label = "fedit/reveal/v1"
    silo: int
    ctx: bytes
    self_shares: tuple[tuple[int, bytes], ...]  # (peer in U3, 33 bytes)
    key_shares: tuple[tuple[int, bytes], ...]  # (peer in U2 but not U3, 33 bytes)


@dataclass(frozen=True, slots=True)
class Confirmation(Signed):
    """A silo's one statement on how a round ended; no `release_digest`: it was skipped."""

    label = "fedit/confirm/v1"
    silo: int
    charter: bytes
    round: int
    state_digest: bytes
    release_digest: bytes

    def content(self) -> tuple[bytes, bytes]:
        """What t silos must sign in common to certify the state."""
        return (self.state_digest, self.release_digest)


@dataclass(frozen=True, slots=True)
class VoidStatement(Signed):
    """A rostered silo's promise that it never advertises, masks or reveals in ctx again."""

    label = "fedit/void/v1"
    silo: int
    ctx: bytes


# ---------------------------------------------------------------------------- unsigned


@dataclass(frozen=True, slots=True)
class VoidCertificate:
    """t void statements: the attempt's uploads stay noise for ever."""

    ctx: bytes
    statements: tuple[VoidStatement, ...]


@dataclass(frozen=True, slots=True)
class RoundCertificate:
    """t equal confirmations: they certify the state that a round ended in."""

    round: int
    confirmations: tuple[Confirmation, ...]


@dataclass(frozen=True, slots=True)
class StateApplied:
    """Local: the driver applied the verified sum and got this state."""

    state_digest: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Local, aggregator: the connection to this silo is gone; nobody waits for it."""

    silo: int


@dataclass(frozen=True, slots=True)
class Deadline:
    """Local: the time for this phase is over. Time is a message."""


Sent: TypeAlias = (  # what may cross the wire
    Offer | Advert | AdvertSet | ShareBundle | ShareSet | MaskedUpload | UploadAck
    | SurvivorSet | Agreement | AgreementSet | Reveal | PublishedSum | Confirmation
    | VoidRequest | VoidStatement | VoidCertificate | SkipRequest | RoundCertificate
)  # fmt: skip
Message: TypeAlias = Sent | StateApplied | Lost | Deadline


# ----------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Hand the message to a silo, or (to=None) to the aggregator."""

    to: int | None
    message: Sent


@dataclass(frozen=True, slots=True)
class Fuse:
    """Commit this to disk before any effect that follows it; stop if it is refused.

    kind is a step of an update's life (storage/life.py), or "heads": remember these
    peers' ledger heads, by roster index. `record` is what a restarted silo must resend
    byte for byte.
    """

    kind: str
    round: int
    attempt: int
    ctx: bytes
    update_digest: bytes = b""
    record: Reveal | VoidStatement | Confirmation | None = None
    heads: tuple[tuple[int, LedgerHead], ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """The sum is out: to a silo it is verified, to the aggregator it is to be published."""

    published: PublishedSum


Effect: TypeAlias = Send | Fuse | Release


def silo_set(silos: tuple[int, ...]) -> bytes:
    """H of a set of silos, sorted by roster index."""
    return digest("fedit/silos/v1", *(u64(s) for s in sorted(silos)))
