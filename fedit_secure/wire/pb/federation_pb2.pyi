from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PhaseName(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PHASE_UNSPECIFIED: _ClassVar[PhaseName]
    PHASE_IDLE: _ClassVar[PhaseName]
    PHASE_TUNING: _ClassVar[PhaseName]
    PHASE_TUNED: _ClassVar[PhaseName]
    PHASE_ADVERTISE: _ClassVar[PhaseName]
    PHASE_SHARE: _ClassVar[PhaseName]
    PHASE_MASK: _ClassVar[PhaseName]
    PHASE_AGREE: _ClassVar[PhaseName]
    PHASE_REVEAL: _ClassVar[PhaseName]
    PHASE_RELEASE: _ClassVar[PhaseName]
    PHASE_CONFIRM: _ClassVar[PhaseName]
    PHASE_APPLIED: _ClassVar[PhaseName]
    PHASE_SKIPPED: _ClassVar[PhaseName]
PHASE_UNSPECIFIED: PhaseName
PHASE_IDLE: PhaseName
PHASE_TUNING: PhaseName
PHASE_TUNED: PhaseName
PHASE_ADVERTISE: PhaseName
PHASE_SHARE: PhaseName
PHASE_MASK: PhaseName
PHASE_AGREE: PhaseName
PHASE_REVEAL: PhaseName
PHASE_RELEASE: PhaseName
PHASE_CONFIRM: PhaseName
PHASE_APPLIED: PhaseName
PHASE_SKIPPED: PhaseName

class UploadChunk(_message.Message):
    __slots__ = ("header", "offset", "data", "tell")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TELL_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    offset: int
    data: bytes
    tell: bool
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., tell: _Optional[bool] = ...) -> None: ...

class UploadState(_message.Message):
    __slots__ = ("held", "payload_digest")
    HELD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    held: int
    payload_digest: bytes
    def __init__(self, held: _Optional[int] = ..., payload_digest: _Optional[bytes] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: bytes
    def __init__(self, address: _Optional[bytes] = ...) -> None: ...

class BlobChunk(_message.Message):
    __slots__ = ("size", "data")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    size: int
    data: bytes
    def __init__(self, size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("hello", "ledger_entries", "ready", "refused", "phase", "withdraw", "welcome", "cannot_serve", "round_offer", "head_receipt", "run_ended", "claim", "offer", "advert", "advert_set", "share_bundle", "share_set", "upload_ack", "survivor_set", "agreement", "agreement_set", "reveal", "published_sum", "confirmation", "void_request", "void_statement", "void_certificate", "skip_request", "round_certificate")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LEDGER_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    CANNOT_SERVE_FIELD_NUMBER: _ClassVar[int]
    ROUND_OFFER_FIELD_NUMBER: _ClassVar[int]
    HEAD_RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RUN_ENDED_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    ADVERT_FIELD_NUMBER: _ClassVar[int]
    ADVERT_SET_FIELD_NUMBER: _ClassVar[int]
    SHARE_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SHARE_SET_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ACK_FIELD_NUMBER: _ClassVar[int]
    SURVIVOR_SET_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_SET_FIELD_NUMBER: _ClassVar[int]
    REVEAL_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_SUM_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_FIELD_NUMBER: _ClassVar[int]
    VOID_REQUEST_FIELD_NUMBER: _ClassVar[int]
    VOID_STATEMENT_FIELD_NUMBER: _ClassVar[int]
    VOID_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    SKIP_REQUEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ledger_entries: LedgerEntries
    ready: Ready
    refused: Refused
    phase: Phase
    withdraw: Withdraw
    welcome: Welcome
    cannot_serve: CannotServe
    round_offer: RoundOffer
    head_receipt: HeadReceipt
    run_ended: RunEnded
    claim: Claim
    offer: Offer
    advert: Advert
    advert_set: AdvertSet
    share_bundle: ShareBundle
    share_set: ShareSet
    upload_ack: UploadAck
    survivor_set: SurvivorSet
    agreement: Agreement
    agreement_set: AgreementSet
    reveal: Reveal
    published_sum: PublishedSum
    confirmation: Confirmation
    void_request: VoidRequest
    void_statement: VoidStatement
    void_certificate: VoidCertificate
    skip_request: SkipRequest
    round_certificate: RoundCertificate
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ledger_entries: _Optional[_Union[LedgerEntries, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., phase: _Optional[_Union[Phase, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., cannot_serve: _Optional[_Union[CannotServe, _Mapping]] = ..., round_offer: _Optional[_Union[RoundOffer, _Mapping]] = ..., head_receipt: _Optional[_Union[HeadReceipt, _Mapping]] = ..., run_ended: _Optional[_Union[RunEnded, _Mapping]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., advert: _Optional[_Union[Advert, _Mapping]] = ..., advert_set: _Optional[_Union[AdvertSet, _Mapping]] = ..., share_bundle: _Optional[_Union[ShareBundle, _Mapping]] = ..., share_set: _Optional[_Union[ShareSet, _Mapping]] = ..., upload_ack: _Optional[_Union[UploadAck, _Mapping]] = ..., survivor_set: _Optional[_Union[SurvivorSet, _Mapping]] = ..., agreement: _Optional[_Union[Agreement, _Mapping]] = ..., agreement_set: _Optional[_Union[AgreementSet, _Mapping]] = ..., reveal: _Optional[_Union[Reveal, _Mapping]] = ..., published_sum: _Optional[_Union[PublishedSum, _Mapping]] = ..., confirmation: _Optional[_Union[Confirmation, _Mapping]] = ..., void_request: _Optional[_Union[VoidRequest, _Mapping]] = ..., void_statement: _Optional[_Union[VoidStatement, _Mapping]] = ..., void_certificate: _Optional[_Union[VoidCertificate, _Mapping]] = ..., skip_request: _Optional[_Union[SkipRequest, _Mapping]] = ..., round_certificate: _Optional[_Union[RoundCertificate, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("silo", "charter", "wire_version", "package_version", "round", "state_digest", "ledger_sequence")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CHARTER_FIELD_NUMBER: _ClassVar[int]
    WIRE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LEDGER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    silo: str
    charter: bytes
    wire_version: int
    package_version: str
    round: int
    state_digest: bytes
    ledger_sequence: int
    def __init__(self, silo: _Optional[str] = ..., charter: _Optional[bytes] = ..., wire_version: _Optional[int] = ..., package_version: _Optional[str] = ..., round: _Optional[int] = ..., state_digest: _Optional[bytes] = ..., ledger_sequence: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("approvals", "certificate", "round", "state_digest", "held")
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    approvals: _containers.RepeatedScalarFieldContainer[bytes]
    certificate: RoundCertificate
    round: int
    state_digest: bytes
    held: HeadReceipt
    def __init__(self, approvals: _Optional[_Iterable[bytes]] = ..., certificate: _Optional[_Union[RoundCertificate, _Mapping]] = ..., round: _Optional[int] = ..., state_digest: _Optional[bytes] = ..., held: _Optional[_Union[HeadReceipt, _Mapping]] = ...) -> None: ...

class CannotServe(_message.Message):
    __slots__ = ("reason", "exit_status")
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    exit_status: int
    def __init__(self, reason: _Optional[str] = ..., exit_status: _Optional[int] = ...) -> None: ...

class RoundOffer(_message.Message):
    __slots__ = ("offer", "certificate", "approvals")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    offer: Offer
    certificate: RoundCertificate
    approvals: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, offer: _Optional[_Union[Offer, _Mapping]] = ..., certificate: _Optional[_Union[RoundCertificate, _Mapping]] = ..., approvals: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LedgerEntries(_message.Message):
    __slots__ = ("first", "entries", "head", "signature")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    first: int
    entries: _containers.RepeatedScalarFieldContainer[bytes]
    head: LedgerHead
    signature: bytes
    def __init__(self, first: _Optional[int] = ..., entries: _Optional[_Iterable[bytes]] = ..., head: _Optional[_Union[LedgerHead, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HeadReceipt(_message.Message):
    __slots__ = ("head", "signature")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    head: LedgerHead
    signature: bytes
    def __init__(self, head: _Optional[_Union[LedgerHead, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ("round", "name")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    round: int
    name: PhaseName
    def __init__(self, round: _Optional[int] = ..., name: _Optional[_Union[PhaseName, str]] = ...) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ("round", "attempt", "reason")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    round: int
    attempt: int
    reason: str
    def __init__(self, round: _Optional[int] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("round", "reason")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    round: int
    reason: str
    def __init__(self, round: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class RunEnded(_message.Message):
    __slots__ = ("round", "state_digest")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    round: int
    state_digest: bytes
    def __init__(self, round: _Optional[int] = ..., state_digest: _Optional[bytes] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    def __init__(self, document: _Optional[bytes] = ...) -> None: ...

class LedgerHead(_message.Message):
    __slots__ = ("population", "sequence", "hash")
    POPULATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    population: str
    sequence: int
    hash: bytes
    def __init__(self, population: _Optional[str] = ..., sequence: _Optional[int] = ..., hash: _Optional[bytes] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("charter", "round", "attempt", "state_digest", "signature")
    CHARTER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    charter: bytes
    round: int
    attempt: int
    state_digest: bytes
    signature: bytes
    def __init__(self, charter: _Optional[bytes] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., state_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Advert(_message.Message):
    __slots__ = ("silo", "ctx", "mask_key", "envelope_key", "self_commitment", "group_commitment", "ledger_head", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_KEY_FIELD_NUMBER: _ClassVar[int]
    SELF_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    GROUP_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    LEDGER_HEAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    ctx: bytes
    mask_key: bytes
    envelope_key: bytes
    self_commitment: bytes
    group_commitment: bytes
    ledger_head: LedgerHead
    signature: bytes
    def __init__(self, silo: _Optional[int] = ..., ctx: _Optional[bytes] = ..., mask_key: _Optional[bytes] = ..., envelope_key: _Optional[bytes] = ..., self_commitment: _Optional[bytes] = ..., group_commitment: _Optional[bytes] = ..., ledger_head: _Optional[_Union[LedgerHead, _Mapping]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AdvertSet(_message.Message):
    __slots__ = ("ctx", "adverts", "signature")
    CTX_FIELD_NUMBER: _ClassVar[int]
    ADVERTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    adverts: _containers.RepeatedCompositeFieldContainer[Advert]
    signature: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., adverts: _Optional[_Iterable[_Union[Advert, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ShareStatement(_message.Message):
    __slots__ = ("dealer", "ctx", "key_set", "holders", "envelope_hashes", "self_commitments", "key_commitments", "signature")
    DEALER_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_HASHES_FIELD_NUMBER: _ClassVar[int]
    SELF_COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    KEY_COMMITMENTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    dealer: int
    ctx: bytes
    key_set: bytes
    holders: _containers.RepeatedScalarFieldContainer[int]
    envelope_hashes: _containers.RepeatedScalarFieldContainer[bytes]
    self_commitments: _containers.RepeatedScalarFieldContainer[bytes]
    key_commitments: _containers.RepeatedScalarFieldContainer[bytes]
    signature: bytes
    def __init__(self, dealer: _Optional[int] = ..., ctx: _Optional[bytes] = ..., key_set: _Optional[bytes] = ..., holders: _Optional[_Iterable[int]] = ..., envelope_hashes: _Optional[_Iterable[bytes]] = ..., self_commitments: _Optional[_Iterable[bytes]] = ..., key_commitments: _Optional[_Iterable[bytes]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SealedEnvelope(_message.Message):
    __slots__ = ("silo", "ciphertext")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
    silo: int
    ciphertext: bytes
    def __init__(self, silo: _Optional[int] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...

class ShareBundle(_message.Message):
    __slots__ = ("statement", "envelopes")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    statement: ShareStatement
    envelopes: _containers.RepeatedCompositeFieldContainer[SealedEnvelope]
    def __init__(self, statement: _Optional[_Union[ShareStatement, _Mapping]] = ..., envelopes: _Optional[_Iterable[_Union[SealedEnvelope, _Mapping]]] = ...) -> None: ...

class ShareSet(_message.Message):
    __slots__ = ("ctx", "key_set", "statements", "envelopes", "signature")
    CTX_FIELD_NUMBER: _ClassVar[int]
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    key_set: bytes
    statements: _containers.RepeatedCompositeFieldContainer[ShareStatement]
    envelopes: _containers.RepeatedCompositeFieldContainer[SealedEnvelope]
    signature: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., key_set: _Optional[bytes] = ..., statements: _Optional[_Iterable[_Union[ShareStatement, _Mapping]]] = ..., envelopes: _Optional[_Iterable[_Union[SealedEnvelope, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("silo", "ctx", "key_set", "dealers_digest", "length", "payload_digest", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    DEALERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes
    length: int
    payload_digest: bytes
    signature: bytes
    def __init__(self, silo: _Optional[int] = ..., ctx: _Optional[bytes] = ..., key_set: _Optional[bytes] = ..., dealers_digest: _Optional[bytes] = ..., length: _Optional[int] = ..., payload_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class UploadAck(_message.Message):
    __slots__ = ("ctx", "silo", "header_digest", "signature")
    CTX_FIELD_NUMBER: _ClassVar[int]
    SILO_FIELD_NUMBER: _ClassVar[int]
    HEADER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    silo: int
    header_digest: bytes
    signature: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., silo: _Optional[int] = ..., header_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SurvivorSet(_message.Message):
    __slots__ = ("ctx", "headers", "signature")
    CTX_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    headers: _containers.RepeatedCompositeFieldContainer[UploadHeader]
    signature: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[UploadHeader, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("silo", "ctx", "key_set", "dealers_digest", "survivors_digest", "headers_digest", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    DEALERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    HEADERS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    ctx: bytes
    key_set: bytes
    dealers_digest: bytes
    survivors_digest: bytes
    headers_digest: bytes
    signature: bytes
    def __init__(self, silo: _Optional[int] = ..., ctx: _Optional[bytes] = ..., key_set: _Optional[bytes] = ..., dealers_digest: _Optional[bytes] = ..., survivors_digest: _Optional[bytes] = ..., headers_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AgreementSet(_message.Message):
    __slots__ = ("ctx", "agreements")
    CTX_FIELD_NUMBER: _ClassVar[int]
    AGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    agreements: _containers.RepeatedCompositeFieldContainer[Agreement]
    def __init__(self, ctx: _Optional[bytes] = ..., agreements: _Optional[_Iterable[_Union[Agreement, _Mapping]]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("silo", "share")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    share: bytes
    def __init__(self, silo: _Optional[int] = ..., share: _Optional[bytes] = ...) -> None: ...

class Reveal(_message.Message):
    __slots__ = ("silo", "ctx", "self_shares", "key_shares", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    SELF_SHARES_FIELD_NUMBER: _ClassVar[int]
    KEY_SHARES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    ctx: bytes
    self_shares: _containers.RepeatedCompositeFieldContainer[Share]
    key_shares: _containers.RepeatedCompositeFieldContainer[Share]
    signature: bytes
    def __init__(self, silo: _Optional[int] = ..., ctx: _Optional[bytes] = ..., self_shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., key_shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class PublishedSum(_message.Message):
    __slots__ = ("ctx", "key_set", "contributors", "total_address", "tag", "agreements", "signature")
    CTX_FIELD_NUMBER: _ClassVar[int]
    KEY_SET_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    AGREEMENTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    key_set: bytes
    contributors: _containers.RepeatedScalarFieldContainer[int]
    total_address: bytes
    tag: int
    agreements: _containers.RepeatedCompositeFieldContainer[Agreement]
    signature: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., key_set: _Optional[bytes] = ..., contributors: _Optional[_Iterable[int]] = ..., total_address: _Optional[bytes] = ..., tag: _Optional[int] = ..., agreements: _Optional[_Iterable[_Union[Agreement, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Confirmation(_message.Message):
    __slots__ = ("silo", "charter", "round", "state_digest", "release_digest", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CHARTER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RELEASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    charter: bytes
    round: int
    state_digest: bytes
    release_digest: bytes
    signature: bytes
    def __init__(self, silo: _Optional[int] = ..., charter: _Optional[bytes] = ..., round: _Optional[int] = ..., state_digest: _Optional[bytes] = ..., release_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class VoidRequest(_message.Message):
    __slots__ = ("ctx", "signature")
    CTX_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    signature: bytes
    def __init__(self, ctx: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class VoidStatement(_message.Message):
    __slots__ = ("silo", "ctx", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    CTX_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: int
    ctx: bytes
    signature: bytes
    def __init__(self, silo: _Optional[int] = ..., ctx: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class VoidCertificate(_message.Message):
    __slots__ = ("ctx", "statements")
    CTX_FIELD_NUMBER: _ClassVar[int]
    STATEMENTS_FIELD_NUMBER: _ClassVar[int]
    ctx: bytes
    statements: _containers.RepeatedCompositeFieldContainer[VoidStatement]
    def __init__(self, ctx: _Optional[bytes] = ..., statements: _Optional[_Iterable[_Union[VoidStatement, _Mapping]]] = ...) -> None: ...

class SkipRequest(_message.Message):
    __slots__ = ("charter", "round", "state_digest", "signature")
    CHARTER_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    charter: bytes
    round: int
    state_digest: bytes
    signature: bytes
    def __init__(self, charter: _Optional[bytes] = ..., round: _Optional[int] = ..., state_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RoundCertificate(_message.Message):
    __slots__ = ("round", "confirmations")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATIONS_FIELD_NUMBER: _ClassVar[int]
    round: int
    confirmations: _containers.RepeatedCompositeFieldContainer[Confirmation]
    def __init__(self, round: _Optional[int] = ..., confirmations: _Optional[_Iterable[_Union[Confirmation, _Mapping]]] = ...) -> None: ...
