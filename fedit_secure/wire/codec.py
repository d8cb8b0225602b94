"""Frames to bytes and back: one table says what every message may hold.

`decode` is the only door for a peer's bytes. It returns a frame that keeps every size
and shape rule of federation.proto, or raises MalformedMessage; no other exception
leaves it, whatever the bytes. Who signed what, and whether it fits the round, is the
protocol's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedit_secure.errors import MalformedMessage
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.fields import (
    AtMost,
    Exactly,
    Field,
    Many,
    Pair,
    PhaseName,
    Record,
    SiloIndex,
    Text,
    Whole,
)
from fedit_secure.wire.limits import MAX_FRAME, MAX_SILO_FRAME, Limits
from fedit_secure.wire.pb import federation_pb2 as pb


@dataclass(frozen=True, slots=True)
class PublishedNotice:
    """A PublishedSum on the wire: its integers are the blob at `total_address`."""

    ctx: bytes
    key_set: bytes
    contributors: tuple[int, ...]
    total_address: bytes
    tag: int
    agreements: tuple[m.Agreement, ...]
    signature: bytes

    @classmethod
    def of(cls, published: m.PublishedSum, total_address: bytes) -> PublishedNotice:
        """The notice of a sum whose integers lie at this address."""
        return cls(
            ctx=published.ctx,
            key_set=published.key_set,
            contributors=published.contributors,
            total_address=total_address,
            tag=published.tag,
            agreements=published.agreements,
            signature=published.signature,
        )

    def whole(self, total: NDArray[np.int32]) -> m.PublishedSum:
        """The message again, with its integers of shape (length,)."""
        return m.PublishedSum(
            ctx=self.ctx,
            key_set=self.key_set,
            contributors=self.contributors,
            total=total,
            tag=self.tag,
            agreements=self.agreements,
            signature=self.signature,
        )


OnWire: TypeAlias = f.Frame | PublishedNotice

_HASH = Exactly(32)
_KEY = Exactly(32)
_SIGNATURE = Exactly(64)
_SILO = SiloIndex()
_ROUND = Whole()
_TEXT = Text()
_APPROVALS = Many(AtMost(8 * 1024))

_HEAD = Record(m.LedgerHead, {"population": _TEXT, "sequence": Whole(), "hash": _HASH})
_OFFER = Record(
    m.Offer,
    {
        "charter": _HASH,
        "round": _ROUND,
        "attempt": _ROUND,
        "state_digest": _HASH,
        "signature": _SIGNATURE,
    },
)
_ADVERT = Record(
    m.Advert,
    {
        "silo": _SILO,
        "ctx": _HASH,
        "mask_key": _KEY,
        "envelope_key": _KEY,
        "self_commitment": _HASH,
        "group_commitment": _HASH,
        "ledger_head": _HEAD,
        "signature": _SIGNATURE,
    },
)
_STATEMENT = Record(
    m.ShareStatement,
    {
        "dealer": _SILO,
        "ctx": _HASH,
        "key_set": _HASH,
        "holders": Many(_SILO),
        "envelope_hashes": Many(Exactly(32, optional=True)),
        "self_commitments": Many(_HASH),
        "key_commitments": Many(_HASH),
        "signature": _SIGNATURE,
    },
)
_ENVELOPES = Many(Pair("ciphertext", AtMost(512)))
_SHARES = Many(Pair("share", Exactly(33)))
UPLOAD_HEADER = Record(
    m.UploadHeader,
    {
        "silo": _SILO,
        "ctx": _HASH,
        "key_set": _HASH,
        "dealers_digest": _HASH,
        "length": Whole(),
        "payload_digest": _HASH,
        "signature": _SIGNATURE,
    },
)
_AGREEMENT = Record(
    m.Agreement,
    {
        "silo": _SILO,
        "ctx": _HASH,
        "key_set": _HASH,
        "dealers_digest": _HASH,
        "survivors_digest": _HASH,
        "headers_digest": _HASH,
        "signature": _SIGNATURE,
    },
)
_CONFIRMATION = Record(
    m.Confirmation,
    {
        "silo": _SILO,
        "charter": _HASH,
        "round": _ROUND,
        "state_digest": _HASH,
        "release_digest": Exactly(32, optional=True),
        "signature": _SIGNATURE,
    },
)
_VOID = Record(m.VoidStatement, {"silo": _SILO, "ctx": _HASH, "signature": _SIGNATURE})
_CERTIFICATE = Record(
    m.RoundCertificate, {"round": _ROUND, "confirmations": Many(_CONFIRMATION)}
)
_RECEIPT = Record(f.HeadReceipt, {"head": _HEAD, "signature": _SIGNATURE})


def _frame(kind: type, **fields: Field) -> Record:
    return Record(kind, fields)


# The envelope's body field -> what it holds.
BODIES: Mapping[str, Record] = {
    "hello": _frame(
        f.Hello,
        silo=_TEXT,
        charter=_HASH,
        wire_version=Whole(),
        package_version=_TEXT,
        round=_ROUND,
        state_digest=_HASH,
        ledger_sequence=Whole(),
    ),
    "ledger_entries": _frame(
        f.LedgerEntries,
        first=Whole(),
        entries=Many(AtMost(f.MAX_ENTRY), f.MAX_PAGE_ENTRIES),
        head=_HEAD,
        signature=_SIGNATURE,
    ),
    "ready": _frame(f.Ready, round=_ROUND),
    "refused": _frame(f.Refused, round=_ROUND, reason=_TEXT),
    "phase": _frame(f.Phase, round=_ROUND, name=PhaseName()),
    "withdraw": _frame(f.Withdraw, round=_ROUND, attempt=_ROUND, reason=_TEXT),
    "welcome": _frame(
        f.Welcome,
        approvals=_APPROVALS,
        certificate=_CERTIFICATE.maybe(),
        round=_ROUND,
        state_digest=_HASH,
        held=_RECEIPT.maybe(),
    ),
    "cannot_serve": _frame(f.CannotServe, reason=_TEXT, exit_status=Whole(1, 9)),
    "round_offer": _frame(
        f.RoundOffer,
        offer=_OFFER,
        certificate=_CERTIFICATE.maybe(),
        approvals=_APPROVALS,
    ),
    "head_receipt": _RECEIPT,
    "run_ended": _frame(f.RunEnded, round=_ROUND, state_digest=_HASH),
    "claim": _frame(f.Claim, document=AtMost(f.MAX_CLAIM)),
    "offer": _OFFER,
    "advert": _ADVERT,
    "advert_set": _frame(
        m.AdvertSet, ctx=_HASH, adverts=Many(_ADVERT), signature=_SIGNATURE
    ),
    "share_bundle": _frame(m.ShareBundle, statement=_STATEMENT, envelopes=_ENVELOPES),
    "share_set": _frame(
        m.ShareSet,
        ctx=_HASH,
        key_set=_HASH,
        statements=Many(_STATEMENT),
        envelopes=_ENVELOPES,
        signature=_SIGNATURE,
    ),
    "upload_ack": _frame(
        m.UploadAck, ctx=_HASH, silo=_SILO, header_digest=_HASH, signature=_SIGNATURE
    ),
    "survivor_set": _frame(
        m.SurvivorSet, ctx=_HASH, headers=Many(UPLOAD_HEADER), signature=_SIGNATURE
    ),
    "agreement": _AGREEMENT,
    "agreement_set": _frame(m.AgreementSet, ctx=_HASH, agreements=Many(_AGREEMENT)),
    "reveal": _frame(
        m.Reveal,
        silo=_SILO,
        ctx=_HASH,
        self_shares=_SHARES,
        key_shares=_SHARES,
        signature=_SIGNATURE,
    ),
    "published_sum": _frame(
        PublishedNotice,
        ctx=_HASH,
        key_set=_HASH,
        contributors=Many(_SILO),
        total_address=_HASH,
        tag=Whole(0, (1 << 61) - 2),
        agreements=Many(_AGREEMENT),
        signature=_SIGNATURE,
    ),
    "confirmation": _CONFIRMATION,
    "void_request": _frame(m.VoidRequest, ctx=_HASH, signature=_SIGNATURE),
    "void_statement": _VOID,
    "void_certificate": _frame(m.VoidCertificate, ctx=_HASH, statements=Many(_VOID)),
    "skip_request": _frame(
        m.SkipRequest,
        charter=_HASH,
        round=_ROUND,
        state_digest=_HASH,
        signature=_SIGNATURE,
    ),
    "round_certificate": _CERTIFICATE,
}
_BODY_OF: Mapping[type, str] = {record.of: body for body, record in BODIES.items()}


def encode(frame: OnWire) -> bytes:
    """The bytes of a frame, at most 3 MiB.

    Raises:
        TypeError: for what isn't a frame of its own: a MaskedUpload or PublishedSum
            goes through the link, local messages go nowhere.
        MalformedMessage: if the frame is too large to be received.
    """
    body = _BODY_OF.get(type(frame))
    if body is None:
        raise TypeError(f"a {type(frame).__name__} isn't sent as a frame")
    envelope = pb.Envelope()
    BODIES[body].put(envelope, body, frame)
    data = envelope.SerializeToString()
    if len(data) > MAX_FRAME:
        raise MalformedMessage(f"a {type(frame).__name__} of {len(data)} bytes")
    return data


def decode(
    data: bytes,
    limits: Limits,
    allowed: frozenset[type] | None = None,
    max_bytes: int = MAX_FRAME,
) -> OnWire:
    """The frame that `data` holds.

    Args:
        data: one frame as `encode` writes it.
        limits: the sizes that the charter allows.
        allowed: the frame types that this peer may send; None for all.
        max_bytes: the largest frame that this peer may send.

    Raises:
        MalformedMessage: in every other case; its text names the message and field.
    """
    if len(data) > max_bytes:
        raise MalformedMessage(f"a frame of {len(data)} bytes, above {max_bytes}")
    envelope = parse(pb.Envelope, data)
    body = envelope.WhichOneof("body")
    if body is None:
        raise MalformedMessage("a frame without a body")
    record = BODIES[body]
    kind = m.PublishedSum if record.of is PublishedNotice else record.of
    if allowed is not None and kind not in allowed:
        raise MalformedMessage(f"a {kind.__name__} from a peer that never sends one")
    try:
        frame: OnWire = record.take(getattr(envelope, body), limits)
    except ValueError as error:
        raise MalformedMessage(f"a {kind.__name__} with {error}") from None
    _check_shape(frame)
    return frame


def decode_from_silo(data: bytes, limits: Limits) -> f.Frame:
    """`decode` at the aggregator's end: at most 512 KiB of what only silos send."""
    frame = decode(data, limits, f.FROM_SILO, MAX_SILO_FRAME)
    if isinstance(frame, PublishedNotice):
        raise MalformedMessage("a PublishedSum from a silo")
    return frame


def parse(kind: Any, data: bytes) -> Any:
    """A protobuf message of ours, to the last byte; MalformedMessage otherwise."""
    try:
        message = kind.FromString(data)
    except (DecodeError, ValueError) as error:
        raise MalformedMessage(f"bytes that aren't a {kind.__name__}") from error
    # What is dropped here would otherwise be a place to hide bytes in, or the trace of
    # a later wire version; a second body or a padded number changes the size too.
    message.DiscardUnknownFields()
    if message.ByteSize() != len(data):
        raise MalformedMessage(f"a {kind.__name__} with bytes that belong to no field")
    return message


def _check_shape(frame: OnWire) -> None:
    statements: tuple[m.ShareStatement, ...] = ()
    if isinstance(frame, m.ShareBundle):
        statements = (frame.statement,)
    elif isinstance(frame, m.ShareSet):
        statements = frame.statements
    for s in statements:
        lists = (s.envelope_hashes, s.self_commitments, s.key_commitments)
        if any(len(column) != len(s.holders) for column in lists):
            raise MalformedMessage(
                f"a ShareStatement of {len(s.holders)} holders with another number of "
                "hashes or commitments"
            )
