"""Whether the aggregator accepts this silo, without taking part in anything."""

from __future__ import annotations

import asyncio

import grpc

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import FETCH, explain
from fedit_secure.wire.channels import open_channel
from fedit_secure.wire.proxy import Proxy
from fedit_secure.wire.tls import Tls

_NO_BLOB = bytes(32)  # a digest of nothing that anybody has


async def probe(
    address: str, tls: Tls, *, proxy: Proxy | None = None, seconds: float = 20.0
) -> None:
    """Ask the aggregator at `host:port` for a blob that it can't have.

    Only who has proved to be a silo of its charter learns that it hasn't. Nothing else is
    said, no stream is opened, and a connection that this silo's daemon has is left alone.

    Raises:
        ConnectError: nobody answers, or one of the two isn't who the charter says.
        DeadlineExceeded: no answer came in time.
    """
    async with open_channel(address, tls, proxy) as channel:
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
