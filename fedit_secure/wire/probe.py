"""Whether the aggregator accepts this silo, without taking part in anything."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import FETCH, MESSAGES, explain
from fedit_secure.wire.tls import Tls, is_loopback

_NO_BLOB = bytes(32)  # a digest of nothing that anybody has


async def probe(address: str, tls: Tls, *, seconds: float = 20.0) -> None:
    """Ask the aggregator at `host:port` for a blob that it can't have.

    Only who has proved to be a silo of its charter learns that it hasn't. Nothing else is
    said, no stream is opened, and a connection that this silo's daemon has is left alone.

    Raises:
        ConnectError: nobody answers, or one of the two isn't who the charter says.
        DeadlineExceeded: no answer came in time.
    """
    options: list[tuple[str, Any]] = [
        *MESSAGES,
        ("grpc.ssl_target_name_override", tls.peer_name),
        ("grpc.enable_http_proxy", int(not is_loopback(address))),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    credentials = grpc.ssl_channel_credentials(tls.roots, tls.private_key, tls.chain)
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        call = channel.unary_stream(FETCH)(bulk.fetch_request(_NO_BLOB))
        try:
            async with asyncio.timeout(seconds):
                await call.read()
        except TimeoutError:
            call.cancel()
            raise DeadlineExceeded(
                f"the aggregator at {address} didn't answer within {seconds:.0f} s"
            ) from None
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise explain(error, address) from None
            return
    raise ConnectError(f"what answers at {address} gave what nobody can have")
