"""Who a page may be called: what keeps a web site from reading it through a browser.

A site whose name is pointed at this machine (DNS rebinding) still asks by its own name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnHosts:
    """Lets requests through for `localhost`, for addresses, which no DNS can point
    elsewhere, and for the names that the operator lists; others get status 400."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        allowed = ["localhost", *names]
        self._named = TrustedHostMiddleware(app, allowed, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_address(HTTPConnection(scope)):
            await self._app(scope, receive, send)
        else:
            await self._named(scope, receive, send)


def _is_address(request: HTTPConnection) -> bool:
    hosts = request.headers.getlist("host")
    if len(hosts) != 1:
        return False
    host, colon, port = hosts[0].rpartition(":")
    if not colon or not port.isdigit():
        host = hosts[0]
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return bracketed == (address.version == 6)
