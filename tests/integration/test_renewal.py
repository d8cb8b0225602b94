"""Leaf certificates are renewed while a run goes on, and no attempt notices.

The clock that certificates are made by is set; the one that TLS checks them by is not. So
the first leaves are made two months ago, and are due as soon as their clock is set right.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from operators import Operators

from fedit_secure.aggregator import renewing
from fedit_secure.aggregator import serve as hub_module
from fedit_secure.aggregator.events import Event
from fedit_secure.errors import StorageError
from fedit_secure.federation.certificates import leaf_end
from fedit_secure.federation.identity import create_identity
from fedit_secure.silo import dialling
from fedit_secure.silo import serve as silo_module
from fedit_secure.wire.tls import Tls

SILOS = ("a", "b", "c")
TWO_MONTHS = timedelta(days=62)


async def serial_shown(address: str) -> int:
    """Of the leaf that the aggregator shows to a new connection, whoever it is from."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_leaves_are_renewed_in_the_middle_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = Operators(tmp_path / "federation", monkeypatch)
    operators.host()
    operators.join(*SILOS)
    assert operators.draft(1, SILOS, rounds=3) == 0
    charter = operators.agree(1, SILOS)
    start = datetime.now(UTC) - TWO_MONTHS
    now = [start]
    dials: Counter[str] = Counter()
    renewals: list[Tls] = []

    class Renewing(renewing.Renewing):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, clock=lambda: now[0])

    class Dialling(dialling.Dialling):
        def __init__(self, identity: Any, *given: Any) -> None:
            super().__init__(identity, *given, clock=lambda: now[0])

        async def __call__(self) -> Any:
            dials[self._identity.name] += 1
            return await super().__call__()

    real = hub_module.AggregatorServer.renew

    def renew(self: Any, tls: Tls) -> None:
        renewals.append(tls)
        real(self, tls)

    monkeypatch.setattr(hub_module, "Renewing", Renewing)
    monkeypatch.setattr(silo_module, "Dialling", Dialling)
    monkeypatch.setattr(hub_module.AggregatorServer, "renew", renew)
    monkeypatch.setattr(renewing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dialling, "LOOK_SECONDS", 0.01)
    masking, checked = asyncio.Event(), asyncio.Event()

    def told(event: Event) -> None:
        if (event.round, event.silo, event.phase) == (1, "", "mask"):
            now[0] = datetime.now(UTC)
            masking.set()

    async def tuned(silo: str) -> None:
        # The second round waits, so that there is one to look at between two rounds.
        if masking.is_set():
            await checked.wait()

    operators.on_event, operators.tuned = told, tuned
    running = asyncio.create_task(operators.run(SILOS))
    async with asyncio.timeout(120):
        await masking.wait()
        while not renewals or any(dials[name] < 2 for name in SILOS):
            assert not running.done(), running.result()
            await asyncio.sleep(0.02)
        shown = await serial_shown(operators.address)
        checked.set()
        await running
    assert dict(dials) == dict.fromkeys(SILOS, 2)
    (renewed,) = renewals
    assert shown == x509.load_pem_x509_certificate(renewed.chain).serial_number
    assert leaf_end(renewed.chain) > start + timedelta(days=150)
    # Every round's first attempt ended in its sum: nobody was missed, nothing was voided.
    phases = Counter(event.phase for event in operators.events if not event.silo)
    assert (phases["void"], phases["skipped"], phases["certified"]) == (0, 0, 3)
    assert phases["mask"] == charter.rounds
    for name in SILOS:
        kinds = Counter(type(e).__name__ for e in operators.ledger(name).events)
        assert (kinds["Intent"], kinds["Masked"], kinds["Released"]) == (3, 3, 3)
        assert kinds["Voided"] == 0


class _Server:
    """What `Renewing` renews."""

    def __init__(self) -> None:
        self.shown: list[Tls] = []

    def renew(self, tls: Tls) -> None:
        self.shown.append(tls)


async def test_a_disk_that_refuses_is_tried_again_and_a_card_that_ends_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    hub = create_identity(
        tmp_path / "hub", "hub", "aggregator", "x", now=start, valid_days=130
    )
    now = [start]
    monkeypatch.setattr(renewing, "LOOK_SECONDS", 0)
    made = renewing.Renewing(hub, (), (), clock=lambda: now[0])
    server, real, tries = _Server(), renewing.issue_leaf, [0]

    def refused(*given: Any) -> Any:
        tries[0] += 1
        if tries[0] <= 3:
            raise StorageError("the disk is full")
        return real(*given)

    keeping = asyncio.create_task(made.keep(server))
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert not server.shown  # it isn't due
        monkeypatch.setattr(renewing, "issue_leaf", refused)
        now[0] += timedelta(days=61)
        async with asyncio.timeout(30):
            while not server.shown:  # noqa: ASYNC110 - a server has no event
                await asyncio.sleep(0)
        assert tries[0] == 4
        assert leaf_end(made.tls.chain) == start + timedelta(days=130)
        # All that is left is the card's own end: another leaf would end no later.
        now[0] = start + timedelta(days=120)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(server.shown) == 1
        now[0] = start + timedelta(days=140)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(server.shown) == 1
        assert not keeping.done()
    finally:
        keeping.cancel()
