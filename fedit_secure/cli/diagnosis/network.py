"""The way to the aggregator: name, port, proxy, who answers, and whether it accepts us."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import socket
import ssl
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from fedit_secure.cli.diagnosis.checks import Case, Check, Skip, Warn
from fedit_secure.config import proxy_variables
from fedit_secure.errors import ConfigError, ConnectError, DeadlineExceeded
from fedit_secure.federation.certificates import check_issuer, check_leaf, make_leaf
from fedit_secure.wire.acceptance import probe
from fedit_secure.wire.proxy import proxy_for
from fedit_secure.wire.tls import Tls, is_loopback

SECONDS = 10.0
_NEARLY_OVER = 7  # days


def _address(case: Case) -> str | Skip:
    address = _target(case)
    if address is None:
        return Skip("no charter says yet where the aggregator is")
    host, port = _split(address)
    with closing(_connection(host, port)):
        return f"{address} is reached{_through(host)}"


def _certificate(case: Case) -> str | Warn:
    """Who answers there; nothing is said to it."""
    address, charter = _target(case), case.charter
    assert address is not None
    assert charter is not None
    shown = _shown(*_split(address))
    hub, now = charter.aggregator, datetime.now(UTC)
    leaf = shown.public_bytes(Encoding.PEM)
    pinned = check_issuer(hub.issuer_certificate)
    try:
        shown.verify_directly_issued_by(pinned)
    except (ValueError, TypeError, InvalidSignature):
        issuer = shown.issuer.rfc4514_string()
        raise ConnectError(
            f"what answers at {address} shows a certificate of {issuer!r}, not of the "
            "issuer that the charter pins: it is something else, or a proxy looks inside "
            "the connection"
        ) from None
    if now < shown.not_valid_before_utc:
        raise ConnectError(
            "the aggregator's certificate is valid from "
            f"{shown.not_valid_before_utc:%F %H:%M} UTC, and this clock says "
            f"{now:%F %H:%M} UTC: one of the two clocks is wrong"
        )
    check_leaf(leaf, hub.issuer_certificate, "aggregator", hub.name, now)
    days = (shown.not_valid_after_utc - now).days
    said = f"{hub.name!r} answers, with a certificate for {days} more days"
    return Warn(said) if days <= _NEARLY_OVER else said


def _accepted(case: Case) -> str:
    """By a call that asks for nothing and tells nothing."""
    address, charter = _target(case), case.charter
    assert address is not None
    assert charter is not None
    hub = charter.aggregator
    tls = Tls.of_silo(_leaf(case), hub.name, hub.issuer_certificate)
    proxy = proxy_for(address, proxy_variables())
    asyncio.run(probe(address, tls, proxy=proxy, seconds=SECONDS))
    return (
        f"the aggregator accepts this silo's certificate{_through(_split(address)[0])}"
    )


def _listen(case: Case) -> str | Warn:
    host, port = _split(case.hub.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE:
                return Warn(f"{case.hub.listen} is in use")
            raise ConfigError(
                f"{case.hub.listen} can't be listened on: {wrong.strerror}"
            ) from wrong
        except OverflowError:
            raise ConfigError(f"{case.hub.listen} ends in no port") from None
    return f"{case.hub.listen} is free"


# --------------------------------------------------------------------------------- details


def _target(case: Case) -> str | None:
    charter = case.charter
    said: str | None = case.silo.aggregator.address
    return said or (charter.aggregator.address if charter else None)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _proxy(host: str) -> SplitResult | None:
    """As gRPC takes it from the environment, where one is set for this host."""
    found = getproxies()
    own = os.environ.get("grpc_proxy")  # noqa: SIM112 - its name
    url = own or found.get("https") or found.get("http")
    if not url or is_loopback(f"{host}:0") or proxy_bypass(host):
        return None
    return urlsplit(url if "//" in url else f"http://{url}")


def _place(proxy: SplitResult) -> tuple[str, int]:
    """Without the user and password that its URL may hold."""
    return proxy.hostname or "", proxy.port or 80


def _through(host: str) -> str:
    proxy = _proxy(host)
    return "" if proxy is None else ", through the proxy {}:{}".format(*_place(proxy))


def _connection(host: str, port: int) -> socket.socket:
    """A TCP connection, through the proxy where one is set. Raises ConnectError."""
    proxy, there, what = _proxy(host), (host, port), f"{host}:{port}"
    if proxy is not None:
        there = _place(proxy)
        what = "the proxy {}:{}".format(*there)
    try:
        socket.getaddrinfo(*there, type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as wrong:
        raise ConnectError(f"the name of {what} isn't known here ({wrong})") from wrong
    try:
        if proxy is None:
            return socket.create_connection(there, SECONDS)
        return _tunnel(proxy, host, port)
    except TimeoutError as wrong:
        raise DeadlineExceeded(f"{what} doesn't answer within {SECONDS:g} s") from wrong
    except (OSError, http.client.HTTPException) as wrong:
        raise ConnectError(f"{what} can't be reached ({wrong})") from wrong


def _tunnel(proxy: SplitResult, host: str, port: int) -> socket.socket:
    connection = http.client.HTTPConnection(*_place(proxy), timeout=SECONDS)
    headers = {}
    if proxy.username is not None:
        login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    connection.set_tunnel(host, port, headers)
    connection.connect()
    assert connection.sock is not None
    return connection.sock


def _shown(host: str, port: int) -> x509.Certificate:
    """The certificate of whoever answers, not yet believed."""
    # Nothing is verified here so that what is wrong can be named; nothing is sent either.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    plain = _connection(host, port)
    try:
        with closing(plain), context.wrap_socket(plain) as connection:
            found = connection.getpeercert(binary_form=True)
    except TimeoutError as wrong:
        raise DeadlineExceeded(
            f"what answers at {host}:{port} doesn't finish the TLS handshake"
        ) from wrong
    except (OSError, ValueError) as wrong:
        raise ConnectError(
            f"what answers at {host}:{port} doesn't speak TLS ({wrong})"
        ) from wrong
    if found is None:
        raise ConnectError(f"what answers at {host}:{port} shows no certificate")
    return x509.load_der_x509_certificate(found)


def _leaf(case: Case) -> tuple[bytes, bytes]:
    """A leaf of the serial that was issued last.

    The aggregator refuses serials below the highest that it has seen: a higher one would
    lock out the daemon that may be running with the last.
    """
    identity, now = case.identity, datetime.now(UTC)
    path = identity.folder / "leaf.serial"
    serial = int(path.read_text()) if path.exists() else int(now.timestamp())
    card = identity.card
    return make_leaf(
        identity.issuer_key,
        card.issuer_certificate,
        card.role,
        identity.name,
        (),
        serial,
        now,
    )


ADDRESS = Check(
    "address",
    _address,
    "Ask the aggregator's operator whether it is up; open this port outwards, or set "
    "https_proxy.",
    needs=("configuration",),
    over_network=True,
)
CERTIFICATE = Check(
    "aggregator",
    _certificate,
    "Set the clock; have the proxy pass this address through; or ask for the charter that "
    "holds now.",
    needs=("charter", "address"),
    over_network=True,
)
ACCEPTED = Check(
    "accepted",
    _accepted,
    "Ask the aggregator's operator whether it serves this charter; clocks must agree.",
    needs=("identity", "aggregator"),
    over_network=True,
)
LISTEN = Check(
    "listen",
    _listen,
    "If that isn't this aggregator running, stop what listens there or change 'listen'.",
    needs=("configuration",),
)
