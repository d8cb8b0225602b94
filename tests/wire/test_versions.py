"""Who speaks another wire version is told so in one sentence; other packages don't matter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from wire_hub import LIMITS, hello, hub, silo
from wire_samples import HELLO, OFFER, Parties

from fedit_secure.errors import ConnectError, FeditError, TurnedAway
from fedit_secure.wire import calls
from fedit_secure.wire import frames as f
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.client import connect
from fedit_secure.wire.codec import encode


@pytest.mark.parametrize("version", ["0.0.1", "0.1.0", "99.0.0+local", ""])
async def test_another_package_of_the_same_wire_version_is_served(
    parties: Parties, tmp_path: Path, version: str
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        await link.send(replace(HELLO, package_version=version))
        peer, said = await where.peers.get()
        assert said.package_version == version
        await peer.send(OFFER)
        assert await link.receive() == OFFER


# ------------------------------------------------------- another silo at this aggregator


async def answer_to(parties: Parties, folder: Path, first: bytes) -> f.CannotServe:
    async with hub(parties, folder) as where, silo(where, parties, 2) as link:
        await link._stream.send(first)
        answer = await link.receive()
        assert isinstance(answer, f.CannotServe)
        assert where.peers.empty()
        return answer


@pytest.mark.parametrize("version", [0, 2, 7])
async def test_an_older_or_newer_silo(
    parties: Parties, tmp_path: Path, version: int
) -> None:
    said = replace(hello(parties, 2), wire_version=version, package_version="9.9")
    answer = await answer_to(parties, tmp_path, encode(said))
    assert answer.reason == (
        "this aggregator speaks wire version 1, and silo 'south' speaks "
        f"{version} (fedit-secure 9.9)"
    )
    assert isinstance(answer.error(), TurnedAway)
    assert answer.error().exit_status == 2


async def test_a_newer_silo_whose_hello_has_more_in_it(
    parties: Parties, tmp_path: Path
) -> None:
    """It isn't a Hello of ours, and the version says why."""
    said = calls.pb.Envelope.FromString(
        encode(replace(hello(parties, 2), wire_version=3))
    )
    inner = said.hello.SerializeToString() + b"\xfa\x06\x02hi"  # field 111, unknown
    newer = b"\x0a" + bytes([len(inner)]) + inner
    assert len(inner) < 128
    answer = await answer_to(parties, tmp_path, newer)
    assert (
        answer.reason == "this aggregator speaks wire version 1, and this silo speaks 3"
    )


async def test_what_is_no_hello_of_any_version_is_malformed(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where, silo(where, parties, 2) as link:
        await link._stream.send(encode(hello(parties, 2)) + b"\xfa\x06\x02hi")
        with pytest.raises(FeditError, match="belong to no field"):
            await link.receive()
        assert where.peers.empty()


@pytest.mark.parametrize("version", [0, 2, 19])
async def test_a_silo_of_another_service(
    parties: Parties, tmp_path: Path, version: int
) -> None:
    """Another version's service has another name, and the same answer."""
    method = calls.CONNECT.replace(".v1.", f".v{version}.")
    assert method != calls.CONNECT
    async with hub(parties, tmp_path) as where, silo(where, parties) as link:
        call = link._channel.stream_stream(method)()
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        assert await call.details() == "this aggregator speaks wire version 1"
        other = link._channel.stream_stream("/another.v2.Service/Connect")()
        assert await other.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "wire version" not in await other.details()


# ------------------------------------------------------- another aggregator at this silo


@asynccontextmanager
async def other_aggregator(
    parties: Parties, handlers: grpc.GenericRpcHandler
) -> AsyncIterator[str]:
    """One with the right certificate, whatever it speaks."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    roots = "".join(pem for _, pem in parties.roster).encode()
    leaf = parties.aggregator.leaf()
    credentials = grpc.ssl_server_credentials([leaf], roots, True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Newer(grpc.GenericRpcHandler):
    """Speaks version 2, and tells others so."""

    def service(self, handler_call_details: Any) -> Any:
        async def refuse(_: Any, context: Any) -> None:
            why = "this aggregator speaks wire version 2"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, why)

        return grpc.stream_stream_rpc_method_handler(refuse)


async def test_a_newer_aggregator(parties: Parties) -> None:
    """The silo ends, with the sentence and status 2, and doesn't try again."""
    async with other_aggregator(parties, Newer()) as address:
        with pytest.raises(ConnectError) as refused:
            await connect(address, parties.silo_tls(0), LIMITS, patience_seconds=60)
    assert not isinstance(refused.value, Unreachable)
    assert str(refused.value) == (
        f"what answers at {address} doesn't speak fedit_secure.v1.Federation: this "
        "aggregator speaks wire version 2"
    )
    assert refused.value.exit_status == 2


async def test_an_aggregator_of_another_number(parties: Parties) -> None:
    """It answers our Hello with its refusal: the daemon's last word, with status 2."""
    why = f.CannotServe("this aggregator speaks wire version 0", 2)

    async def refuse(_: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        await context.read()
        await context.write(encode(why))

    handler = grpc.stream_stream_rpc_method_handler(refuse)
    ours = grpc.method_handlers_generic_handler(calls.SERVICE, {"Connect": handler})
    async with other_aggregator(parties, ours) as address:
        link = await connect(address, parties.silo_tls(0), LIMITS, patience_seconds=0)
        await link.send(HELLO)
        answer = await link.receive()
        await link.close()
    assert answer == why
    error = answer.error()
    assert isinstance(error, TurnedAway)
    assert not isinstance(error, ConnectError)  # which the daemon would dial again for
    assert (str(error), error.exit_status) == (why.reason, 2)
