"""Daemons over gRPC with mutual TLS, one of them behind a cable that is cut while its
masked upload is under way: it is in the sum, and sends what was missing."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import small_federation
from _cable import CLOSE, Cable, cable_to
from numpy.typing import NDArray
from small_federation import SmallFederation, found
from streams import step_of

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.federation.identity import Identity, issue_leaf
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.secagg.messages import UploadHeader
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.spool import Spool
from fedit_secure.wire import bulk
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import SiloLink
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.uploads import Uploads

SECONDS = 60
LENGTH = 1_200_000  # coordinates: an upload of 3.6 MB
CUT = 2_000_000  # bytes on the wire, of which what precedes the upload is few
OVERHEAD = 64 * 1024  # bytes of a handshake and of what goes beside the upload


async def serve(
    federation: SmallFederation, silo: Identity, addresses: list[str]
) -> GridState:
    """One silo's daemon; each connection goes to the next address, the last one on."""
    charter, name = federation.charter, silo.name

    async def tune(round: int, state: GridState, charge: Charge) -> NDArray[np.float32]:
        await charge()
        drawn = federation.updates.setdefault((name, round), [])
        draw = np.random.default_rng([charter.silo_index(name), len(drawn)])
        drawn.append(draw.uniform(-0.2, 0.2, LENGTH).astype(np.float32))
        return drawn[-1]

    async def dial() -> SiloLink:
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        leaf, hub = issue_leaf(silo, (), datetime.now(UTC)), charter.aggregator
        tls = Tls.of_silo(leaf, hub.name, hub.issuer_certificate)
        limits = Limits.of(charter.secagg_params())
        return await connect(address, tls, limits, patience_seconds=10)

    with open_journal(federation.root / name) as journal:
        books = federation.books(silo, journal)
        books.admit(bytes(32))
        return await SiloDaemon(charter, name, silo.signing, books, tune).run(dial)


async def test_a_silo_whose_cable_is_cut_in_its_upload_is_in_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = tuple((name, (2, LENGTH // 4)) for name, _ in small_federation.LAYOUT)
    monkeypatch.setattr(small_federation, "LAYOUT", layout)
    monkeypatch.setattr(small_federation, "LENGTH", LENGTH)
    times = {"phase_deadline_seconds": 15.0, "silo_deadline_seconds": 30.0}
    federation = found(tmp_path, 3, **times)  # none of three may be missing
    charter, limits = federation.charter, Limits.of(federation.charter.secagg_params())
    uploads = Uploads(Spool(tmp_path / "spool", 6 * limits.payload_bytes), limits)
    aggregator = Aggregator(
        charter,
        federation.approvals,
        federation.aggregator.signing,
        RunFolder(tmp_path / "run", charter, federation.initial),
        on_event=federation.events.append,
        uploads=uploads,
    )
    roster = [(row.name, row.issuer_certificate) for row in charter.roster]
    leaf = issue_leaf(federation.aggregator, (), datetime.now(UTC))
    tls = Tls.of_aggregator(leaf, roster)
    server = AggregatorServer(
        "127.0.0.1", 0, tls, roster, aggregator.on_connect, uploads, aggregator, limits
    )
    address = f"127.0.0.1:{await server.start()}"
    cut, whole, held = Cable([CUT], how=CLOSE), Cable(), []
    answered = bulk.upload_held

    def note(data: bytes, header: UploadHeader, *, whole: bool) -> int:
        found = answered(data, header, whole=whole)
        if header.silo == charter.silo_index("s1"):
            held.append(found)
        return found

    monkeypatch.setattr(bulk, "upload_held", note)
    try:
        async with (
            asyncio.timeout(SECONDS),
            cable_to(address, cut),
            cable_to(address, whole),
            asyncio.TaskGroup() as group,
        ):
            for silo in federation.silos:
                by_cable = [cut.address, whole.address]
                way = by_cable if silo.name == "s1" else [address]
                group.create_task(serve(federation, silo, way))
            state = await aggregator.run()
    finally:
        await server.stop(0.2)
    assert cut.up == CUT
    names = [silo.name for silo in federation.silos]
    bound = step_of(charter.secagg_params()) + 2.0**-24
    assert np.abs(to_float32(state) - federation.mean_of(1, names)).max() <= bound
    for name in names:
        with open_journal(federation.root / name) as journal:
            kinds = [json.loads(entry)["kind"] for entry in journal.ledger(name)]
        assert [kinds.count(k) for k in ("intent", "masked", "voided")] == [1, 1, 0]
    assert not {"void", "skipped"} & {event.phase for event in federation.events}
    # What was under way when the cable was cut goes twice: more of it on a busy machine.
    # So the second call is held to what the aggregator said that it holds, and to that it
    # holds something.
    assert held[0] == 0 < held[1] < CUT
    assert whole.up < 1.05 * (limits.payload_bytes - held[1]) + OVERHEAD
    assert uploads._ctx is None
    assert not list((tmp_path / "spool").iterdir())
