"""Signatures under a privacy ledger's head: the silo's, and the aggregator's receipt."""

from __future__ import annotations

from fedit_secure.errors import FaultySiloOrAggregator
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
