"""What answers where TLS with the aggregator failed: one look, to say it in a sentence.

gRPC says that a handshake failed and not with whom. A firewall that breaks TLS open, a
login page and a wrong port are three different telephone calls, so the silo looks once
more, by the same route. Nothing is verified and nothing is trusted for it; what is sent
is the beginning of a handshake, without a certificate.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from fedit_secure.errors import ConnectError
from fedit_secure.federation.certificates import check_leaf, issued_by
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.frames import printable
from fedit_secure.wire.proxy import Proxy
from fedit_secure.wire.tls import Tls

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")
_ALERT, _HANDSHAKE = 0x15, 0x16  # types of a TLS record (RFC 8446 section 5.1)
_PIECE: Final = 16 * 1024
_NAME: Final = 120  # characters of a stranger's name that are shown


async def what_answers(
    address: str, tls: Tls, proxy: Proxy | None, seconds: float = 10.0
) -> ConnectError | None:
    """Why no TLS came about with the aggregator at `host:port`; never raises.

    None if it is the pinned aggregator that answers, or nothing telling was seen.
    `Unreachable` where another try may succeed.
    """
    where = address if proxy is None else proxy.address
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(seconds):
            host, _, port = where.rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            if proxy is not None:
                refusal = await _tunnel(reader, writer, address, proxy)
                if refusal is not None:
                    return refusal
            return await _look(reader, writer, address, tls)
    except TimeoutError:
        return Unreachable(f"{where} takes connections and then says nothing")
    except (OSError, ValueError) as error:
        if proxy is None or writer is not None:
            return None
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Unreachable(f"{_named(proxy)} can't be reached ({reason})")
    finally:
        if writer is not None:
            writer.transport.abort()


async def _tunnel(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: str,
    proxy: Proxy,
) -> ConnectError | None:
    writer.write(proxy.request(address))
    answer = b""
    with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        answer = await reader.readuntil(b"\r\n\r\n")
    status = _STATUS.match(answer)
    if status is None:
        return ConnectError(f"what answers at {proxy.address} is no HTTP proxy")
    code = int(status[1])
    if 200 <= code < 300:
        return None
    if code == 407:
        how = "doesn't accept the user and password in" * bool(proxy.authorization)
        how = how or "asks for a user and a password in"
        return ConnectError(
            f"the proxy {proxy.address} {how} {proxy.variable} (HTTP status 407)"
        )
    if code >= 500:
        return Unreachable(
            f"{_named(proxy)} couldn't connect to {address} (HTTP status {code})"
        )
    return ConnectError(
        f"{_named(proxy)} refuses to connect to {address} (HTTP status {code}): whoever "
        "runs it has to allow CONNECT to that host and port"
    )


async def _look(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, tls: Tls
) -> ConnectError | None:
    """Begin a handshake. With TLS 1.3 it is over on our side when the certificate is
    read, and what would finish it on theirs is never sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # to name who stands there, not to talk to them
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=tls.peer_name)
    heard = b""
    while True:
        try:
            session.do_handshake()
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
            data = await reader.read(_PIECE)
            if not data:
                return _closed(address, heard)
            heard = heard or data
            incoming.write(data)
        except ssl.SSLError as error:
            return _no_tls(address, heard, error)
        else:
            shown = session.getpeercert(binary_form=True)
            return None if shown is None else _stranger(address, tls, shown)


def _closed(address: str, heard: bytes) -> ConnectError | None:
    if heard:
        return None
    return Unreachable(
        f"what answers at {address} hangs up before TLS begins: a firewall does so, and "
        "an aggregator with too many connections"
    )


def _no_tls(address: str, heard: bytes, error: ssl.SSLError) -> ConnectError | None:
    kind = heard[0] if heard else 0
    if kind == _HANDSHAKE:
        return None
    if kind == _ALERT:
        return ConnectError(
            f"what answers at {address} refuses to speak TLS ({error.reason})"
        )
    if heard.lstrip().startswith((b"HTTP/", b"<")):
        return ConnectError(
            f"what answers at {address} is a web page without TLS: is the port right, or "
            "does this network ask machines to log in first?"
        )
    return ConnectError(f"what answers at {address} doesn't speak TLS")


def _stranger(address: str, tls: Tls, shown: bytes) -> ConnectError | None:
    """What is wrong with a certificate (DER); None if it is the pinned aggregator's."""
    role, name, _ = tls.peer_name.split(".")
    now = datetime.now(UTC)
    pem = ssl.DER_cert_to_PEM_cert(shown).encode()
    if issued_by(pem, tls.roots.decode()):
        try:
            check_leaf(pem, tls.roots.decode(), role, name, now)
        except ConnectError as error:
            return ConnectError(
                f"what answers at {address} can't show that it is the aggregator: "
                f"{error} (the clock here says {now:%Y-%m-%d %H:%M} UTC)"
            )
        return None
    issuer = _issuer(shown)
    if issuer.endswith(".fedit"):
        hint = "is the address right, and the charter the newest?"
    else:
        hint = (
            "if that is your organisation's or provider's, a firewall on the way breaks "
            f"TLS open, and whoever runs it has to exempt {address} from inspection"
        )
    return ConnectError(
        f"what answers at {address} isn't the aggregator that the charter pins, for its "
        f"certificate was issued by {issuer!r}: {hint}"
    )


def _issuer(shown: bytes) -> str:
    try:
        return printable(
            x509.load_der_x509_certificate(shown).issuer.rfc4514_string(), _NAME
        )
    except ValueError:
        return "nobody whom one could name"


def _named(proxy: Proxy) -> str:
    return f"the proxy {proxy.address}, which {proxy.variable} names,"
