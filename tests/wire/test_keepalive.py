"""A silo that waits for its peers keeps its connection, however its pings arrive."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from fedit_secure.wire.calls import MESSAGES, server_options

METHOD = "/test.Idle/Wait"
EAGER = 1_000  # milliseconds between pings: as often as gRPC sends them
SECONDS = 7.0

SERVER_OPTIONS = tuple(server_options(10))


async def idle(options: tuple[tuple[str, int], ...]) -> grpc.StatusCode | None:
    """Wait on a silent stream of a server with these options; its status if it broke."""

    async def wait(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(SECONDS)
        return request

    server = grpc.aio.server(options=options)
    handler = grpc.unary_unary_rpc_method_handler(wait)
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    eager = [(k, v) for k, v in MESSAGES if k != "grpc.keepalive_time_ms"]
    eager.append(("grpc.keepalive_time_ms", EAGER))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", eager) as channel:
            try:
                assert await channel.unary_unary(METHOD)(b"idle", timeout=30) == b"idle"
            except grpc.aio.AioRpcError as error:
                return error.code()
        return None
    finally:
        await server.stop(None)


async def test_many_pings_in_silence_are_no_reason_to_hang_up() -> None:
    strict = tuple(o for o in SERVER_OPTIONS if o[0] != "grpc.http2.max_ping_strikes")
    assert len(strict) == len(SERVER_OPTIONS) - 1
    ours, default = await asyncio.gather(idle(SERVER_OPTIONS), idle(strict))
    assert ours is None
    assert default is grpc.StatusCode.UNAVAILABLE  # what it is there for


@pytest.mark.parametrize("options", [MESSAGES, SERVER_OPTIONS])
def test_a_dead_peer_is_noticed_within_a_minute(options: tuple) -> None:
    found = dict(options)
    whole = found["grpc.keepalive_time_ms"] + found["grpc.keepalive_timeout_ms"]
    assert 20_000 <= whole <= 60_000


def test_all_silos_share_what_may_be_sent_ahead() -> None:
    """However many upload at once, at most 8 MiB are on their way unread, and a silo that
    is alone with few others gets a whole chunk."""
    ahead = {
        n: dict(server_options(n))["grpc.http2.lookahead_bytes"] for n in (2, 10, 64)
    }
    assert ahead == {2: 1 << 20, 10: (8 << 20) // 10, 64: 128 << 10}
    assert dict(server_options(1000))["grpc.http2.lookahead_bytes"] == 128 << 10
