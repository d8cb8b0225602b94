"""A round over gRPC while strangers press against the port, and a silo of another charter."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc_federation
import pytest
from faults.crashing import assert_sum, charges, ends_of
from grpc_federation import release
from small_federation import found

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.identity import issue_leaf
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.tls import Tls

STRANGERS = 2000


async def test_connection_flood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an attempt 2,000 connections come and stay. The round ends with the
    exact sum of all silos, each charged once."""
    address = listened_to(monkeypatch)
    federation = found(tmp_path, 4)
    strangers = contextlib.ExitStack()
    came: list[socket.socket] = []

    def flood(frame: f.Frame) -> f.Frame:
        if isinstance(frame, m.AdvertSet) and not came:
            ends = (socket.create_connection(address[0]) for _ in range(STRANGERS))
            came.extend(strangers.enter_context(end) for end in ends)
        return frame

    with strangers:
        state, _ = await release(federation, flood)
    assert len(came) == STRANGERS
    assert ends_of(federation) == ("s0", "s1", "s2", "s3")
    assert_sum(federation, state, ends_of(federation))
    assert [charges(federation, f"s{i}") for i in range(4)] == [1] * 4


async def test_wrong_charter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rostered silo, with the right certificate, that goes by another charter than the
    run's: it is told so, before the run and with the status of a policy's refusal. Once it
    comes with the right one, the round has all four."""
    federation = found(tmp_path, 4)
    charter, hub = federation.charter, federation.charter.aggregator
    answers: list[f.Frame] = []

    async def visit(address: tuple[str, int]) -> None:
        leaf = issue_leaf(federation.silos[3], (), datetime.now(UTC))
        tls = Tls.of_silo(leaf, hub.name, hub.issuer_certificate)
        limits = Limits.of(charter.secagg_params())
        link = await connect(f"{address[0]}:{address[1]}", tls, limits)
        other = charter.model_copy(update={"epoch": 2}).digest()
        await link.send(f.Hello("s3", other, f.WIRE_VERSION, "0.1.0", 0, bytes(32), 0))
        answers.append(await link.receive())
        await link.close()

    listened_to(monkeypatch, visit)
    state, _ = await release(federation)
    (answer,) = answers
    assert isinstance(answer, f.CannotServe)
    assert answer.reason == (
        "epoch 1 of 'small' is served here, and silo 's3' goes by another charter: its "
        "operator has to approve this one first"
    )
    assert isinstance(answer.error(), PolicyRefusal)
    assert answer.exit_status == 6
    assert ends_of(federation) == ("s0", "s1", "s2", "s3")
    assert_sum(federation, state, ends_of(federation))
    assert [charges(federation, f"s{i}") for i in range(4)] == [1] * 4


async def nobody(address: tuple[str, int]) -> None:
    """Visits nobody."""


def listened_to(
    monkeypatch: pytest.MonkeyPatch,
    visit: Callable[[tuple[str, int]], Awaitable[None]] = nobody,
) -> list[tuple[str, int]]:
    """Where the aggregator of the next `release` listens, once it does and before any
    silo dials; `visit` comes first."""
    address: list[tuple[str, int]] = []

    class Server(grpc_federation.AggregatorServer):
        async def start(self) -> int:
            address.append(("127.0.0.1", await super().start()))
            await visit(address[0])
            return address[0][1]

    monkeypatch.setattr(grpc_federation, "AggregatorServer", Server)
    return address
