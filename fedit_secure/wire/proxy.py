"""The HTTP proxy through which a silo dials out (CONNECT, RFC 9110 section 9.3.6).

gRPC could read the environment itself. But where a variable can't be used it logs the
value, with its password, and dials without a proxy; it knows no upper case; and it takes
`no_proxy` entries for endings of words. So it is told what was decided here.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from fedit_secure.errors import ConfigError
from fedit_secure.wire.tls import is_loopback

# Not HTTP_PROXY: behind a web server, a request can set that one.
_PROXIES: Final = ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy")
_EXCEPTIONS: Final = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
_FORM: Final = "http://host:port or http://user:password@host:port"
_HTTP_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, and the environment variable that names it.

    Only `address` and `variable` may be shown: `authorization` is a password.
    """

    address: str
    variable: str
    authorization: str = field(default="", repr=False)

    def request(self, target: str) -> bytes:
        """What asks it for a tunnel to `target`, a host:port."""
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode()

    def options(self, target: str) -> list[tuple[str, Any]]:
        """The options of a channel that is dialled to `address` and ends at `target`."""
        options = [("grpc.http_connect_server", target)]
        if self.authorization:
            header = f"Proxy-Authorization:{self.authorization}"
            options.append(("grpc.http_connect_headers", header))
        return options


def proxy_for(address: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy through which `host:port` is dialled; None to dial it directly.

    The first that is set of grpc_proxy, https_proxy, HTTPS_PROXY and http_proxy counts,
    and an empty one means none. No proxy serves loopback, nor what the first of
    no_grpc_proxy, no_proxy and NO_PROXY excludes: names with all below them, addresses,
    networks, or * for everything. Raises ConfigError, which never quotes a value.
    """
    variable = next((name for name in _PROXIES if name in environment), None)
    if variable is None or not environment[variable].strip():
        return None
    if is_loopback(address) or _excluded(address, environment):
        return None
    return _parsed(variable, environment[variable].strip())


def _parsed(variable: str, value: str) -> Proxy:
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        port = url.port or _HTTP_PORT
    except ValueError:  # its text may quote the value
        raise ConfigError(
            f"the variable {variable} isn't of the form {_FORM}"
        ) from None
    if url.scheme != "http":
        raise ConfigError(
            f"the variable {variable} must be of the form {_FORM}: TLS or SOCKS to the "
            "proxy itself isn't supported, and what goes through it is TLS in any case"
        )
    if not _is_authority(url):
        raise ConfigError(f"the variable {variable} isn't of the form {_FORM}")
    host = f"[{url.hostname}]" if ":" in str(url.hostname) else url.hostname
    authorization = ""
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(f"{host}:{port}", variable, authorization)


def _is_authority(url: SplitResult) -> bool:
    host = url.hostname or ""
    fit = host.isascii() and host.isprintable() and host and " " not in host
    return bool(fit) and url.path in ("", "/") and not (url.query or url.fragment)


def _excluded(address: str, environment: Mapping[str, str]) -> bool:
    variable = next((name for name in _EXCEPTIONS if name in environment), None)
    if variable is None:
        return False
    host = address.rsplit(":", 1)[0].strip("[]").lower()
    return any(
        _covers(entry.strip().lower(), host)
        for entry in environment[variable].split(",")
    )


def _covers(entry: str, host: str) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name = entry.removeprefix("*").removeprefix(".")
        return bool(name) and f".{host}".endswith(f".{name}")
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
