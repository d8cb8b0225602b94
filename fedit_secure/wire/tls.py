"""Mutual TLS with the charter in the place of a certificate authority."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from fedit_secure.errors import ConfigError, ConnectError
from fedit_secure.federation.certificates import check_leaf, leaf_name


@dataclass(frozen=True, slots=True)
class Tls:
    """What one party shows and trusts. All PEM; the key isn't printed.

    Attributes:
        private_key: the leaf's key.
        chain: the leaf, then its issuer (`federation.identity.issue_leaf`).
        roots: the issuer certificates that the peer's leaf must descend from.
        peer_name: to a silo, the aggregator's leaf name; empty to the aggregator,
            which holds every silo to its own issuer.
    """

    private_key: bytes = field(repr=False)
    chain: bytes
    roots: bytes
    peer_name: str = ""

    @classmethod
    def of_silo(
        cls, leaf: tuple[bytes, bytes], aggregator: str, issuer_certificate: str
    ) -> Tls:
        """A silo's: it trusts the charter's issuer of this aggregator, and only it."""
        name = leaf_name("aggregator", aggregator)
        return cls(leaf[0], leaf[1], issuer_certificate.encode(), name)

    @classmethod
    def of_aggregator(
        cls, leaf: tuple[bytes, bytes], roster: Sequence[tuple[str, str]]
    ) -> Tls:
        """The aggregator's: `roster` is (silo name, issuer certificate) pairs."""
        return cls(leaf[0], leaf[1], "".join(pem for _, pem in roster).encode())


class Gatekeeper:
    """Tells which silo of the roster a leaf certificate proves its holder to be.

    `serials` keeps the highest leaf serial seen per silo name: an older leaf, perhaps a
    stolen one, is refused. Hand in a mapping that outlives the process to keep it so.
    """

    def __init__(
        self,
        roster: Sequence[tuple[str, str]],
        now: Callable[[], datetime],
        serials: MutableMapping[str, int] | None = None,
    ) -> None:
        self.names = tuple(name for name, _ in roster)
        if len({pem for _, pem in roster}) < len(roster):
            raise ConfigError("two silos of the roster share an issuer certificate")
        self._issuers = dict(roster)
        self._now = now
        self._serials = {} if serials is None else serials

    def identify(self, leaf_pem: bytes) -> int:
        """The roster index of the leaf's silo.

        Raises:
            ConnectError: if the leaf names no silo of the roster, or wasn't issued by
                that silo's pinned issuer, or is expired, or older than one seen before.
        """
        refusal = ConnectError("the certificate names no silo of this federation")
        for name in self._claimed(leaf_pem):
            try:
                serial = check_leaf(
                    leaf_pem,
                    self._issuers[name],
                    "silo",
                    name,
                    self._now(),
                    self._serials.get(name, 0),
                )
            except ConnectError as error:
                refusal = error
            else:
                self._serials[name] = serial
                return self.names.index(name)
        raise refusal

    def _claimed(self, leaf_pem: bytes) -> list[str]:
        try:
            names = (
                x509.load_pem_x509_certificate(leaf_pem)
                .extensions.get_extension_for_class(x509.SubjectAlternativeName)
                .value.get_values_for_type(x509.DNSName)
            )
        except (ValueError, TypeError, x509.ExtensionNotFound):
            return []
        return [name for name in self.names if leaf_name("silo", name) in names]


def is_loopback(address: str) -> bool:
    """Whether `host:port` never leaves this machine, so that no proxy can serve it."""
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
