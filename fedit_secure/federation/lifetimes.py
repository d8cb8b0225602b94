"""How long certificates still hold, and when a leaf is renewed: in good time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

from cryptography import x509

from fedit_secure.federation.card import Card
from fedit_secure.federation.certificates import check_issuer, leaf_end

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


def renewal_due(chain_pem: bytes) -> datetime:
    """When two thirds of the life of a chain's leaf are over: a month is left to notice
    whatever keeps it from being renewed.
    """
    leaf = x509.load_pem_x509_certificate(chain_pem)
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return start + (end - start) * 2 / 3


def seconds_left(
    card: Card, now: datetime, chain_pem: bytes | None = None
) -> dict[str, float]:
    """Seconds until each certificate of a party ends, by name; negative once it has.

    "card": until the end of its last day, in UTC. "issuer": the certificate that the
    charter pins. "leaf": of a chain that is shown to peers, where one is given. Raises
    ConfigError for an issuer that isn't one.
    """
    last = datetime.combine(card.expires, time(), UTC) + timedelta(days=1)
    ends = {
        "issuer": check_issuer(card.issuer_certificate).not_valid_after_utc,
        "card": last,
    }
    if chain_pem is not None:
        ends["leaf"] = leaf_end(chain_pem)
    return {name: (end - now).total_seconds() for name, end in ends.items()}
