"""The frozen messages and effects of one release.

Messages name silos by roster index. `ctx` (32 bytes) binds a message to the charter, the
round, the attempt, the global state and the codec; `key_set` is K, the hash of the sorted
adverts. Every signed message has `signed_digest()`: the 32 bytes that its signature covers,
all fields but the signature itself under a label of its own. States, which hold secrets,
live in protocol.py and never leave the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg.transcript import digest, join, u64

Blob: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class LedgerHead:
    """A silo's privacy ledger as it stands: its population, entry count and chain hash."""

    population: str
    sequence: int
    hash: bytes

    def encode(self) -> bytes:
        return join(self.population.encode(), u64(self.sequence), self.hash)


# ------------------------------------------------------------- signed by the aggregator


@dataclass(frozen=True, slots=True)
class Offer:
    """Opens an attempt (from 1) of a round (from 1) on one global state."""

    charter: bytes
    round: int
    attempt: int
    state_digest: bytes
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest(
            "fedit/offer/v1",
            self.charter,
            u64(self.round),
            u64(self.attempt),
            self.state_digest,
        )


@dataclass(frozen=True, slots=True)
class AdvertSet:
    """U1: the adverts of the attempt, sorted by silo."""

    ctx: bytes
    adverts: tuple[Advert, ...]
    signature: bytes = b""

    def key_set(self) -> bytes:
        """K, which omits the adverts' signatures."""
        return digest("fedit/keyset/v1", self.ctx, *(a.encode() for a in self.adverts))

    def signed_digest(self) -> bytes:
        return digest("fedit/u1/v1", self.ctx, self.key_set())


@dataclass(frozen=True, slots=True)
class ShareSet:
    """U2: the statements of every dealer in it, and their envelopes to one holder."""

    ctx: bytes
    key_set: bytes
    statements: tuple[ShareStatement, ...]
    envelopes: tuple[tuple[int, bytes], ...]  # (dealer, ciphertext), holder's own left out
    signature: bytes = b""

    def dealers(self) -> tuple[int, ...]:
        return tuple(s.dealer for s in self.statements)

    def signed_digest(self) -> bytes:
        return digest("fedit/u2/v1", self.ctx, self.key_set, silo_set(self.dealers()))


@dataclass(frozen=True, slots=True)
class UploadAck:
    """The aggregator holds the whole upload with this header."""

    ctx: bytes
    silo: int
    header_digest: bytes
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest("fedit/ack/v1", self.ctx, u64(self.silo), self.header_digest)


@dataclass(frozen=True, slots=True)
class SurvivorSet:
    """U3: the headers of the uploads that are whole, sorted by silo."""

    ctx: bytes
    headers: tuple[UploadHeader, ...]
    signature: bytes = b""

    def silos(self) -> tuple[int, ...]:
        return tuple(h.silo for h in self.headers)

    def headers_digest(self) -> bytes:
        return digest("fedit/headers/v1", *(h.signed_digest() for h in self.headers))

    def signed_digest(self) -> bytes:
        return digest(
            "fedit/u3/v1", self.ctx, silo_set(self.silos()), self.headers_digest()
        )


@dataclass(frozen=True, slots=True)
class PublishedSum:
    """The sum X over U3 as int32 integers of shape (length,), its tag T, and the quorum."""

    ctx: bytes
    key_set: bytes
    contributors: tuple[int, ...]
    total: NDArray[np.int32]
    tag: int
    agreements: tuple[Agreement, ...]
    signature: bytes = b""

    def release_digest(self) -> bytes:
        """H(ctx, K, U3, X): what a confirmation commits to."""
        return digest(
            "fedit/release/v1",
            self.ctx,
            self.key_set,
            silo_set(self.contributors),
            np.ascontiguousarray(self.total, dtype="<i4").data,
        )

    def signed_digest(self) -> bytes:
        return digest("fedit/published/v1", self.release_digest(), u64(self.tag))


@dataclass(frozen=True, slots=True)
class VoidRequest:
    """Asks every silo to close an attempt that can't end in a sum."""

    ctx: bytes
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest("fedit/void-request/v1", self.ctx)


@dataclass(frozen=True, slots=True)
class SkipRequest:
    """Asks every silo to close a round without a release, its state unchanged."""

    charter: bytes
    round: int
    state_digest: bytes
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest("fedit/skip/v1", self.charter, u64(self.round), self.state_digest)


# -------------------------------------------------------------------- signed by a silo


@dataclass(frozen=True, slots=True)
class Advert:
    """A silo's single-use public keys, its commitments and its ledger head."""

    silo: int
    ctx: bytes
    mask_key: bytes
    envelope_key: bytes
    self_commitment: bytes
    group_commitment: bytes
    ledger_head: LedgerHead
    signature: bytes = b""

    def encode(self) -> bytes:
        return join(
            u64(self.silo),
            self.ctx,
            self.mask_key,
            self.envelope_key,
            self.self_commitment,
            self.group_commitment,
            self.ledger_head.encode(),
        )

    def signed_digest(self) -> bytes:
        return digest("fedit/advert/v1", self.encode())


@dataclass(frozen=True, slots=True)
class ShareStatement:
    """What a dealer signs of its shares: per holder the envelope's hash (b"" for itself)
    and the commitments to the holder's two shares, all in the order of `holders`."""

    dealer: int
    ctx: bytes
    key_set: bytes
    holders: tuple[int, ...]
    envelope_hashes: tuple[bytes, ...]
    self_commitments: tuple[bytes, ...]
    key_commitments: tuple[bytes, ...]
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest(
            "fedit/shares/v1",
            u64(self.dealer),
            self.ctx,
            self.key_set,
            silo_set(self.holders),
            join(*self.envelope_hashes),
            join(*self.self_commitments),
            join(*self.key_commitments),
        )


@dataclass(frozen=True, slots=True)
class ShareBundle:
    """A dealer's statement with the envelopes it speaks of: (holder, ciphertext)."""

    statement: ShareStatement
    envelopes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """What a silo signs of its masked upload: `length` bytes with this digest."""

    silo: int
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes  # H(U2)
    length: int
    payload_digest: bytes
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest(
            "fedit/upload/v1",
            u64(self.silo),
            self.ctx,
            self.key_set,
            self.dealers_digest,
            u64(self.length),
            self.payload_digest,
        )


@dataclass(frozen=True, slots=True)
class MaskedUpload:
    """The packed masked vector, then the masked tag as 8 little-endian bytes."""

    header: UploadHeader
    payload: Blob


@dataclass(frozen=True, slots=True)
class Agreement:
    """A masked silo's one signature on the set of survivors."""

    silo: int
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes  # H(U2)
    survivors_digest: bytes  # H(U3)
    headers_digest: bytes
    signature: bytes = b""

    def content(self) -> tuple[bytes, ...]:
        """What a quorum must sign in common."""
        return (
            self.ctx,
            self.key_set,
            self.dealers_digest,
            self.survivors_digest,
            self.headers_digest,
        )

    def signed_digest(self) -> bytes:
        return digest("fedit/agree/v1", u64(self.silo), *self.content())


@dataclass(frozen=True, slots=True)
class AgreementSet:
    """The quorum of agreements, relayed."""

    ctx: bytes
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    """One share per peer: of its self-mask seed if it survived, else of its mask key."""

    silo: int
    ctx: bytes
    self_shares: tuple[tuple[int, bytes], ...]  # (peer in U3, 33 bytes)
    key_shares: tuple[tuple[int, bytes], ...]  # (peer in U2 but not U3, 33 bytes)
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest(
            "fedit/reveal/v1",
            u64(self.silo),
            self.ctx,
            *(join(u64(peer), share) for peer, share in self.self_shares),
            b"",
            *(join(u64(peer), share) for peer, share in self.key_shares),
        )


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A silo's one statement on how a round ended; no `release_digest`: it was skipped."""

    silo: int
    charter: bytes
    round: int
    state_digest: bytes
    release_digest: bytes
    signature: bytes = b""

    def content(self) -> tuple[bytes, bytes]:
        """What t silos must sign in common to certify the state."""
        return (self.state_digest, self.release_digest)

    def signed_digest(self) -> bytes:
        return digest(
            "fedit/confirm/v1",
            u64(self.silo),
            self.charter,
            u64(self.round),
            *self.content(),
        )


@dataclass(frozen=True, slots=True)
class VoidStatement:
    """A rostered silo's promise that it never advertises, masks or reveals in ctx again."""

    silo: int
    ctx: bytes
    signature: bytes = b""

    def signed_digest(self) -> bytes:
        return digest("fedit/void/v1", u64(self.silo), self.ctx)


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
class Deadline:
    """Local: the time for this phase is over. Time is a message."""


Message: TypeAlias = (
    Offer
    | Advert
    | AdvertSet
    | ShareBundle
    | ShareSet
    | MaskedUpload
    | UploadAck
    | SurvivorSet
    | Agreement
    | AgreementSet
    | Reveal
    | PublishedSum
    | Confirmation
    | VoidRequest
    | VoidStatement
    | VoidCertificate
    | SkipRequest
    | RoundCertificate
    | StateApplied
    | Deadline
)


# ----------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Send:
    """Hand the message to a silo, or (to=None) to the aggregator."""

    to: int | None
    message: Message


@dataclass(frozen=True, slots=True)
class Fuse:
    """Commit this to disk before any effect that follows it; stop if it is refused.

    kind is "advertise", "mask", "reveal", "void", "renew" or "confirm". `record` is what a
    restarted silo must resend byte for byte (a Reveal, VoidStatement or Confirmation), or None.
    `heads` are peers' ledger heads, by roster index, to remember with an "advertise" fuse's
    attempt (kind "heads").
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
