"""A federation's certificates, limits and samples of every frame."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from fedit_secure.federation.certificates import make_issuer, make_leaf
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.tls import Tls

NOW = datetime.now(UTC)
LIMITS = Limits(silos=4, length=6, payload_bytes=26)


class Authority:
    """A party's issuer key, as on its card."""

    def __init__(self, role: str, name: str) -> None:
        self.role, self.name = role, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = make_issuer(
            self.key, role, name, NOW - timedelta(days=99), NOW + timedelta(days=99)
        )

    def leaf(
        self,
        serial: int = 10,
        name: str | None = None,
        now: datetime = NOW,
        role: str | None = None,
    ) -> tuple[bytes, bytes]:
        return make_leaf(
            self.key, self.pem, role or self.role, name or self.name, [], serial, now
        )


@dataclass
class Parties:
    aggregator: Authority
    silos: list[Authority]

    @property
    def roster(self) -> list[tuple[str, str]]:
        return [(silo.name, silo.pem) for silo in self.silos]

    def silo_tls(self, silo: int, leaf: tuple[bytes, bytes] | None = None) -> Tls:
        leaf = leaf or self.silos[silo].leaf()
        return Tls.of_silo(leaf, self.aggregator.name, self.aggregator.pem)


def h(n: int) -> bytes:
    return bytes([n]) * 32


def s(n: int) -> bytes:
    return bytes([n]) * 64


HEAD = m.LedgerHead(population="north/patients", sequence=7, hash=h(9))
OFFER = m.Offer(charter=h(1), round=2, attempt=1, state_digest=h(2), signature=s(3))
ADVERT = m.Advert(
    silo=3,
    ctx=h(4),
    mask_key=h(5),
    envelope_key=h(6),
    self_commitment=h(7),
    group_commitment=h(8),
    ledger_head=HEAD,
    signature=s(9),
)
STATEMENT = m.ShareStatement(
    dealer=1,
    ctx=h(4),
    key_set=h(5),
    holders=(0, 1, 3),
    envelope_hashes=(h(1), b"", h(3)),
    self_commitments=(h(1), h(2), h(3)),
    key_commitments=(h(4), h(5), h(6)),
    signature=s(7),
)
HEADER = m.UploadHeader(
    silo=0,
    ctx=h(4),
    key_set=h(5),
    dealers_digest=h(6),
    length=26,
    payload_digest=h(7),
    signature=s(8),
)
AGREEMENT = m.Agreement(
    silo=2,
    ctx=h(4),
    key_set=h(5),
    dealers_digest=h(6),
    survivors_digest=h(7),
    headers_digest=h(8),
    signature=s(9),
)
CONFIRMATION = m.Confirmation(
    silo=0,
    charter=h(1),
    round=2,
    state_digest=h(2),
    release_digest=h(3),
    signature=s(4),
)
SKIPPED = m.Confirmation(
    silo=1, charter=h(1), round=2, state_digest=h(2), release_digest=b"", signature=s(4)
)
CERTIFICATE = m.RoundCertificate(round=2, confirmations=(CONFIRMATION, SKIPPED))
VOID = m.VoidStatement(silo=3, ctx=h(4), signature=s(5))
HELLO = f.Hello(
    silo="north",
    charter=h(1),
    wire_version=f.WIRE_VERSION,
    package_version="0.1.0",
    round=0,
    state_digest=h(2),
    ledger_sequence=7,
)
PUBLISHED = m.PublishedSum(
    ctx=h(4),
    key_set=h(5),
    contributors=(0, 1, 3),
    total=np.array([1, -2, 3, -(2**31), 2**31 - 1, 0], dtype=np.int32),
    tag=(1 << 61) - 2,
    agreements=(AGREEMENT,),
    signature=s(6),
)

# One of every frame that goes through the codec as itself.
FRAMES: tuple[f.Frame, ...] = (
    HELLO,
    f.Welcome(
        approvals=(b"{}", b'{"a":1}'), certificate=None, round=0, state_digest=h(1)
    ),
    f.Welcome(approvals=(), certificate=CERTIFICATE, round=2, state_digest=h(1)),
    f.Welcome((), None, 0, h(1), f.HeadReceipt(m.LedgerHead("p", 7, h(2)), s(3))),
    f.CannotServe(reason="no", exit_status=2),
    f.RoundOffer(offer=OFFER, certificate=CERTIFICATE, approvals=(b"x",)),
    f.RoundOffer(offer=OFFER, certificate=None, approvals=()),
    f.LedgerEntries(first=3, entries=(b"{}", b"{1}"), head=HEAD, signature=s(1)),
    f.HeadReceipt(head=HEAD, signature=s(1)),
    f.Ready(round=4),
    *(f.Phase(round=4, name=name) for name in f.PHASES),
    f.Withdraw(round=4, attempt=2, reason="tired"),
    f.Refused(round=4, reason="ε is spent"),
    f.RunEnded(round=4, state_digest=h(1)),
    f.Claim(document=b'{"silo": "north"}'),
    OFFER,
    ADVERT,
    m.AdvertSet(ctx=h(4), adverts=(ADVERT, ADVERT), signature=s(1)),
    m.ShareBundle(statement=STATEMENT, envelopes=((0, b"c" * 114), (3, b"d" * 114))),
    m.ShareSet(
        ctx=h(4),
        key_set=h(5),
        statements=(STATEMENT,),
        envelopes=((1, b"c" * 114),),
        signature=s(1),
    ),
    m.UploadAck(ctx=h(4), silo=2, header_digest=h(5), signature=s(1)),
    m.SurvivorSet(ctx=h(4), headers=(HEADER,), signature=s(1)),
    AGREEMENT,
    m.AgreementSet(ctx=h(4), agreements=(AGREEMENT, AGREEMENT)),
    m.Reveal(
        silo=1,
        ctx=h(4),
        self_shares=((0, b"x" * 33), (1, b"y" * 33)),
        key_shares=((2, b"z" * 33),),
        signature=s(1),
    ),
    CONFIRMATION,
    SKIPPED,
    m.VoidRequest(ctx=h(4), signature=s(1)),
    VOID,
    m.VoidCertificate(ctx=h(4), statements=(VOID,)),
    m.SkipRequest(charter=h(1), round=3, state_digest=h(2), signature=s(1)),
    CERTIFICATE,
)
