"""X.509 without a certificate authority: one self-signed issuer a party, and its
leaves.

The charter pins the issuer, so a leaf renews without a new charter. A peer is held to
the issuer of the name that it claims and to the fixed DNS name of its role; common
names are for people only. Profile: RFC 5280, P-256 keys, SHA-256.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedit_secure.errors import ConfigError, ConnectError

LEAF_DAYS = 90
# A peer's clock may be this far behind ours.
_CLOCK_SKEW = timedelta(hours=1)
# What reading a certificate that somebody else made may raise.
_UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def leaf_name(role: str, name: str) -> str:
    """The DNS name that every leaf of this party carries, and that its peers demand."""
    return f"{role}.{name}.fedit"


def make_issuer(
    key: ec.EllipticCurvePrivateKey,
    role: str,
    name: str,
    start: datetime,
    end: datetime,
) -> str:
    """A self-signed certificate that may sign leaves and nothing below them, as PEM."""
    subject = _subject(f"issuer of {leaf_name(role, name)}")
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )


def make_leaf(
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer_pem: str,
    role: str,
    name: str,
    hosts: Sequence[str],
    serial: int,
    now: datetime,
) -> tuple[bytes, bytes]:
    """A fresh key and its certificate for 90 days, as (key PEM, leaf + issuer PEM).

    `hosts` are DNS names or IP addresses beside the party's own `leaf_name`.
    """
    issuer = check_issuer(issuer_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    names = dict.fromkeys((leaf_name(role, name), *hosts))
    end = min(now + timedelta(days=LEAF_DAYS), issuer.not_valid_after_utc)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(_subject(leaf_name(role, name)))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in names]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key_pem, leaf.public_bytes(Encoding.PEM) + issuer_pem.encode()


def check_issuer(pem: str) -> x509.Certificate:
    """Reads an issuer certificate; raises ConfigError unless it is one of
    `make_issuer`.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        ).value
        key = certificate.public_key()
    except _UNREADABLE as error:
        raise ConfigError(
            "the issuer certificate isn't a self-signed X.509 certificate"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
        key.curve, ec.SECP256R1
    ):
        raise ConfigError("the issuer certificate's key isn't on the curve P-256")
    if not constraints.ca or constraints.path_length != 0:
        raise ConfigError("the issuer certificate may not sign leaves and only leaves")
    if certificate.public_bytes(Encoding.PEM).decode() != pem:
        raise ConfigError("the issuer certificate's PEM text holds more than itself")
    return certificate


def check_leaf(
    leaf_pem: bytes,
    issuer_pem: str,
    role: str,
    name: str,
    now: datetime,
    lowest_serial: int = 0,
) -> int:
    """Holds a peer's leaf to the pinned issuer of the name it claims; returns its
    serial.

    `lowest_serial` is the highest serial seen from this peer: an older leaf, perhaps a
    stolen one, is refused. Raises ConnectError that names the peer.
    """
    peer = f"{role} {name!r}"
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        names = leaf.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
        leaf.verify_directly_issued_by(check_issuer(issuer_pem))
    except _UNREADABLE as error:
        raise ConnectError(
            f"the certificate shown for {peer} wasn't issued by the issuer that the "
            "charter pins"
        ) from error
    if leaf_name(role, name) not in names:
        raise ConnectError(f"the certificate shown for {peer} names another party")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise ConnectError(
            f"the certificate of {peer} is valid only from "
            f"{leaf.not_valid_before_utc:%Y-%m-%d} to "
            f"{leaf.not_valid_after_utc:%Y-%m-%d}"
        )
    if leaf.serial_number < lowest_serial:
        raise ConnectError(
            f"the certificate of {peer} is older than one that it has shown before"
        )
    return leaf.serial_number


def issued_by(leaf_pem: bytes, issuer_pem: str) -> bool:
    """Whether a certificate carries this issuer's signature, whatever else it says."""
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        leaf.verify_directly_issued_by(check_issuer(issuer_pem))
    except (*_UNREADABLE, ConfigError):
        return False
    return True


def leaf_end(chain_pem: bytes) -> datetime:
    """When the first certificate of a chain ends, in UTC."""
    return x509.load_pem_x509_certificate(chain_pem).not_valid_after_utc


def _subject(common_name: str) -> x509.Name:
    # A common name holds at most 64 characters; nothing checks it.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
