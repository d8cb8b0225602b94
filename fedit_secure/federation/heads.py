"""Signatures under a privacy ledger's head: the silo's, and the aggregator's receipt."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from fedit_secure.errors import FaultySiloOrAggregator
from fedit_secure.federation.document import Document, Hex32, Hex64, Line, Name
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.secagg.transcript import digest, encode


def head_digest(silo: str, head: LedgerHead) -> bytes:
    """The 32 bytes that both parties sign: whose ledger, its population, count, hash."""
    return digest("fedit/head/v1", silo.encode(), encode(head))


def sign_head(key: SigningKey, silo: str, head: LedgerHead) -> bytes:
    """The signature of the silo, or the aggregator's countersignature."""
    return key.sign(head_digest(silo, head))


def check_head(silo: str, public: bytes, head: LedgerHead, signature: bytes) -> None:
    """Raises FaultySiloOrAggregator unless `public` signed this head of `silo`'s
    ledger.
    """
    try:
        verify(public, head_digest(silo, head), signature)
    except BadSignature:
        what = f"a wrong signature under ledger head {head.sequence}"
        raise FaultySiloOrAggregator(silo, what) from None


class SignedHead(Document):
    """A ledger's head under the silo's signature, and the aggregator's where it is known.

    Both sign `head_digest`. Reading one checks neither.
    """

    silo: Name
    population: Line
    sequence: Annotated[int, Field(ge=1, lt=2**53)]
    hash: Hex32
    signature: Hex64
    countersignature: Hex64 | None

    @classmethod
    def of(
        cls,
        silo: str,
        head: LedgerHead,
        signature: bytes,
        countersignature: bytes | None,
    ) -> Self:
        """The document of a head of at least one entry; the signatures as they are."""
        return cls(
            silo=silo,
            population=head.population,
            sequence=head.sequence,
            hash=head.hash.hex(),
            signature=signature.hex(),
            countersignature=None
            if countersignature is None
            else countersignature.hex(),
        )

    @property
    def head(self) -> LedgerHead:
        """What both signed."""
        return LedgerHead(self.population, self.sequence, bytes.fromhex(self.hash))
