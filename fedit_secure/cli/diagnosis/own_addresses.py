"""Addresses of this machine: the aggregator's, and where the hosts of one job meet."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import closing

from fedit_secure.cli.diagnosis.checks import Case, Check, Skip, Warn
from fedit_secure.errors import ConfigError, ConnectError


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(case: Case) -> str | Warn:
    host, port = split_address(case.hub.listen)
    return _free(case.hub.listen, host, port) or Warn(f"{case.hub.listen} is in use")


def _endpoint(case: Case) -> str | Warn | Skip:
    """torch listens there on this host, on which the daemon and the first process are."""
    run = case.silo.torchrun
    if run.endpoint is None:
        return "all processes of a job are on this machine"
    host, port = split_address(run.endpoint)
    known = socket.AI_NUMERICHOST if case.offline else 0
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=known)
    except (OSError, OverflowError, UnicodeError) as wrong:
        if case.offline:
            return Skip(f"{host!r} is a name (--offline)")
        raise ConnectError(
            f"the name of torchrun.endpoint, {host!r}, isn't known here ({wrong})"
        ) from wrong
    here = str(found[0][4][0])
    address = ipaddress.ip_address(here.partition("%")[0])
    if address.is_loopback or address.is_unspecified:
        raise ConfigError(
            f"torchrun.endpoint {run.endpoint} is {here}, where no other host reaches it"
        )
    return _free(f"torchrun.endpoint {run.endpoint}", here, port) or Warn(
        f"torchrun.endpoint {run.endpoint} is in use: by a round, or by another program"
    )


def _free(what: str, host: str, port: int) -> str | None:
    """That this machine can listen there; None while something does. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as wrong:
            if wrong.errno == errno.EADDRINUSE:
                return None
            raise ConfigError(
                f"{what} can't be listened on: {wrong.strerror}"
            ) from wrong
        except OverflowError:
            raise ConfigError(f"{what} ends in no port") from None
    return f"{what} is free"


LISTEN = Check(
    "listen",
    _listen,
    "If that isn't this aggregator running, stop what listens there or change 'listen'.",
    needs=("configuration",),
)
ENDPOINT = Check(
    "endpoint",
    _endpoint,
    "Name an address of this machine that the other hosts reach, and a port that nothing "
    "else here uses.",
    needs=("configuration",),
)
