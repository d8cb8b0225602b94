"""`python -m fedit_secure.watch.ask_healthz host:port`: does the daemon of that page run?

For a container's health check: status 0 if the page's /healthz says so, 1 otherwise. The
page is this machine's own, so an address that means all of them is asked on loopback.
"""

from __future__ import annotations

import http.client
import sys
from contextlib import closing

SECONDS = 5.0
_OWN = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - asked, not listened on


def running(address: str) -> bool:
    """Whether /healthz at host:port answers 200."""
    host, _, port = address.rpartition(":")
    own = _OWN.get(host, host)
    try:
        page = http.client.HTTPConnection(f"{own}:{port}", timeout=SECONDS)
        with closing(page):
            page.request("GET", "/healthz")
            return page.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(len(sys.argv) != 2 or not running(sys.argv[1]))
