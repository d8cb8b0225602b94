"""The way to the aggregator: name, port, proxy, who answers, and whether it accepts us."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from datetime import UTC, datetime

from fedit_secure.cli.diagnosis.checks import Case, Check, Skip
from fedit_secure.cli.diagnosis.own_addresses import split_address
from fedit_secure.config import proxy_variables
from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.federation.certificates import make_leaf
from fedit_secure.federation.charter import AggregatorRow
from fedit_secure.wire.acceptance import probe
from fedit_secure.wire.probe import what_answers
from fedit_secure.wire.proxy import Proxy, proxy_for
from fedit_secure.wire.tls import Tls

SECONDS = 10.0


def _address(case: Case) -> str | Skip:
    """The name is known, and something takes a connection there, or at the proxy."""
    address = _target(case)
    if address is None:
        return Skip("no charter says yet where the aggregator is")
    proxy = _proxy(address)
    where = address if proxy is None else proxy.address
    what = where if proxy is None else f"the proxy {where}"
    try:
        there = socket.getaddrinfo(*split_address(where), type=socket.SOCK_STREAM)[0][
            4
        ][:2]
    except (OSError, OverflowError, UnicodeError) as wrong:
        raise ConnectError(f"the name of {what} isn't known here ({wrong})") from wrong
    try:
        with closing(socket.create_connection(there, SECONDS)):
            return f"{what} takes connections"
    except TimeoutError as wrong:
        raise DeadlineExceeded(f"{what} doesn't answer within {SECONDS:g} s") from wrong
    except (OSError, OverflowError) as wrong:
        raise ConnectError(f"{what} can't be reached ({wrong})") from wrong


def _aggregator(case: Case) -> str:
    """Who answers there, by the beginning of a handshake; nothing is said to them."""
    address, hub, proxy = _way(case)
    wrong = asyncio.run(what_answers(address, _tls(case, hub), proxy, SECONDS))
    if wrong is not None:
        raise wrong
    return f"nobody but {hub.name!r} answers there{_through(proxy)}"


def _accepted(case: Case) -> str:
    """By a call that asks for nothing and tells nothing."""
    address, hub, proxy = _way(case)
    asyncio.run(probe(address, _tls(case, hub), proxy=proxy, seconds=SECONDS))
    return f"{hub.name!r} accepts this silo's certificate{_through(proxy)}"


# --------------------------------------------------------------------------------- details


def _target(case: Case) -> str | None:
    charter = case.charter
    said: str | None = case.silo.aggregator.address
    return said or (charter.aggregator.address if charter else None)


def _way(case: Case) -> tuple[str, AggregatorRow, Proxy | None]:
    address, charter = _target(case), case.charter
    assert address is not None
    assert charter is not None
    return address, charter.aggregator, _proxy(address)


def _proxy(address: str) -> Proxy | None:
    return proxy_for(address, proxy_variables())


def _through(proxy: Proxy | None) -> str:
    return "" if proxy is None else f", through the proxy {proxy.address}"


def _tls(case: Case, hub: AggregatorRow) -> Tls:
    return Tls.of_silo(_leaf(case), hub.name, hub.issuer_certificate)


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
AGGREGATOR = Check(
    "aggregator",
    _aggregator,
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
