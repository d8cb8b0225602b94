"""The frozen messages and effects of one release.

Messages name silos by roster index. `ctx` (32 bytes) binds a message to the charter, the
round, the attempt, the global state and the codec; `key_set` is K, the hash of the sorted
adverts. A `Signed` message's signature covers `signed_digest()`: its label and every
field but signatures, in the order written here. States, which hold secrets, live in
states.py and never leave the process.
"""

from __future__ import annotations

from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg.transcript import Blob, Signed, Silos, Value, digest, encode


class LedgerHead(Value):
    """A silo's privacy ledger as it stands: its population, entry count and chain hash."""

    population: str
    sequence: int
    hash: bytes


# ------------------------------------------------------------- signed by the aggregator


class InAttempt(Signed):
    """Belongs to the attempt of this context."""

    ctx: bytes


class Offer(Signed, label="fedit/offer/v1"):
    """Opens an attempt (from 1) of a round (from 1) on one global state."""

    charter: bytes
    round: int
    attempt: int
    state_digest: bytes


class AdvertSet(InAttempt, label="fedit/u1/v1"):
    """U1: the adverts of the attempt, sorted by silo."""

    adverts: tuple[Advert, ...]

    def key_set(self) -> bytes:
        """K, which omits the adverts' signatures."""
        return digest("fedit/keyset/v1", self.ctx, encode(self.adverts))


class ShareSet(InAttempt, label="fedit/u2/v1"):
    """U2: the statements of every dealer in it, and their envelopes to one holder."""

    key_set: bytes
    statements: tuple[ShareStatement, ...]
    envelopes: tuple[tuple[int, bytes], ...]  # (dealer, ciphertext), the own left out


class UploadAck(InAttempt, label="fedit/ack/v1"):
    """The aggregator holds the whole upload with this header."""

    silo: int
    header_digest: bytes


class SurvivorSet(InAttempt, label="fedit/u3/v1"):
    """U3: the headers of the uploads that are whole, sorted by silo."""

    headers: tuple[UploadHeader, ...]

    def digests(self) -> tuple[bytes, bytes]:
        """H(U3) and that of the headers: what an agreement says of the survivors."""
        headers = (header.signed_digest() for header in self.headers)
        u3 = silo_set(tuple(header.silo for header in self.headers))
        return u3, digest("fedit/headers/v1", *headers)


class PublishedSum(InAttempt, label="fedit/published/v1"):
    """The sum X over U3 as int32 integers of shape (length,), its tag, and the quorum."""

    key_set: bytes
    contributors: Silos
    total: NDArray[np.int32]
    tag: int
    agreements: tuple[Agreement, ...]
    release_digest: bytes = field(init=False)  # H(ctx, K, U3, X): what is confirmed

    def __post_init__(self) -> None:
        x = np.ascontiguousarray(self.total, dtype="<i4").data
        what = (self.ctx, self.key_set, silo_set(self.contributors), x)
        object.__setattr__(self, "release_digest", digest("fedit/release/v1", *what))

    def signed_digest(self) -> bytes:
        """Covers X through the release digest, so that it is hashed once, in place."""
        rest = (encode(self.tag), encode(self.agreements))
        return digest(self.label, self.release_digest, *rest)


class VoidRequest(InAttempt, label="fedit/void-request/v1"):
    """Asks every silo to close an attempt that can't end in a sum."""


class SkipRequest(Signed, label="fedit/skip/v1"):
    """Asks every silo to close a round without a release, its state unchanged."""

    charter: bytes
    round: int
    state_digest: bytes


# -------------------------------------------------------------------- signed by a silo


class BySilo(Signed):
    """What the silo with this roster index says in the attempt of this context."""

    silo: int
    ctx: bytes


class Advert(BySilo, label="fedit/advert/v1"):
    """A silo's single-use public keys, its commitments and its ledger head."""

    mask_key: bytes
    envelope_key: bytes
    self_commitment: bytes
    group_commitment: bytes
    ledger_head: LedgerHead


class ShareStatement(Signed, label="fedit/shares/v1"):
    """What a dealer signs of its shares: per holder the envelope's hash (b"" for itself)
    and the commitments to the holder's two shares, all in the order of `holders`."""

    dealer: int
    ctx: bytes
    key_set: bytes
    holders: Silos
    envelope_hashes: tuple[bytes, ...]
    self_commitments: tuple[bytes, ...]
    key_commitments: tuple[bytes, ...]

    @property
    def silo(self) -> int:
        return self.dealer


class ShareBundle(Value):
    """A dealer's statement with the envelopes it speaks of: (holder, ciphertext)."""

    statement: ShareStatement
    envelopes: tuple[tuple[int, bytes], ...]


class UploadHeader(BySilo, label="fedit/upload/v1"):
    """What a silo signs of its masked upload: `length` bytes with this digest."""

    key_set: bytes
    dealers_digest: bytes  # H(U2)
    length: int
    payload_digest: bytes


class MaskedUpload(Value):
    """The packed masked vector, then the masked tag as 8 little-endian bytes."""

    header: UploadHeader
    payload: Blob


class Agreement(BySilo, label="fedit/agree/v1"):
    """A masked silo's one signature on the set of survivors."""

    key_set: bytes
    dealers_digest: bytes  # H(U2)
    survivors_digest: bytes  # H(U3)
    headers_digest: bytes


class AgreementSet(Value):
    """The quorum of agreements, relayed."""

    ctx: bytes
    agreements: tuple[Agreement, ...]


class Reveal(BySilo, label="fedit/reveal/v1"):
    """One share per peer: of its self-mask seed if it survived, else of its mask key."""

    self_shares: tuple[tuple[int, bytes], ...]  # (peer in U3, 33 bytes)
    key_shares: tuple[tuple[int, bytes], ...]  # (peer in U2 but not U3, 33 bytes)


class Confirmation(Signed, label="fedit/confirm/v1"):
    """A silo's one statement on how a round ended; no `release_digest`: it was skipped."""

    silo: int
    charter: bytes
    round: int
    state_digest: bytes
    release_digest: bytes

    def content(self) -> tuple[bytes, bytes]:
        """What t silos must sign in common to certify the state."""
        return (self.state_digest, self.release_digest)


class VoidStatement(BySilo, label="fedit/void/v1"):
    """A rostered silo's promise that it never advertises, masks or reveals in ctx again."""


# ---------------------------------------------------------------------------- unsigned


class VoidCertificate(Value):
    """t void statements: the attempt's uploads stay noise for ever."""

    ctx: bytes
    statements: tuple[VoidStatement, ...]


class RoundCertificate(Value):
    """t equal confirmations certify the state that a round ended in. c + 1 of them, which
    come earlier, are what a silo may follow that can't check the sum."""

    round: int
    confirmations: tuple[Confirmation, ...]


class StateApplied(Value):
    """Local: the driver applied the verified sum and got this state."""

    state_digest: bytes


class Lost(Value):
    """Local, aggregator: the connection to this silo is gone; nobody waits for it."""

    silo: int


class Deadline(Value):
    """Local: the time for this phase is over. Time is a message."""


Sent = (  # what may cross the wire
    Offer | Advert | AdvertSet | ShareBundle | ShareSet | MaskedUpload | UploadAck
    | SurvivorSet | Agreement | AgreementSet | Reveal | PublishedSum | Confirmation
    | VoidRequest | VoidStatement | VoidCertificate | SkipRequest | RoundCertificate
)  # fmt: skip
Message = Sent | StateApplied | Lost | Deadline


# ----------------------------------------------------------------------------- effects


class Send(Value):
    """Hand the message to a silo, or (to=None) to the aggregator."""

    to: int | None
    message: Sent


class Fuse(Value):
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


class Release(Value):
    """The sum is verified, and to be applied."""

    published: PublishedSum


Effect = Send | Fuse | Release


def silo_set(silos: Silos) -> bytes:
    """H of a set of silos, sorted by roster index."""
    return digest("fedit/silos/v1", *map(encode, sorted(silos)))
