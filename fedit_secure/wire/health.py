"""`grpc.health.v1` for load balancers and orchestrators, on an address of its own.

They have no certificate, so it is in the clear, and it says nothing but whether the
aggregator serves. No call of ours can be made there, and none of it on the silos' port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from fedit_secure.errors import ConfigError
from fedit_secure.wire.calls import SERVICE

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.max_allowed_incoming_connections", 64),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.so_reuseport", 0),
)


@asynccontextmanager
async def answering_health(listen: str | None) -> AsyncIterator[str | None]:
    """Say SERVING on `host:port` inside, and NOT_SERVING as it ends; None: do nothing.

    It answers for the server as a whole (the empty name) and for the silos' service.
    Yields the address with the port that was taken. Raises ConfigError if that can't be
    had.
    """
    if listen is None:
        yield None
        return
    server = grpc.aio.server(options=_OPTIONS)
    servicer = aio.HealthServicer()
    add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ConfigError(f"can't answer health checks on {listen}") from error
    await server.start()
    await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield f"{listen.rpartition(':')[0]}:{port}"
    finally:
        await servicer.enter_graceful_shutdown()
        await server.stop(0.2)  # who watches has heard it
