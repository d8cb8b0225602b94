"""A silo's end of the wire: it dials out, proves itself, and holds calls to time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from fedit_secure.errors import ConnectError, DeadlineExceeded, FeditError
from fedit_secure.secagg.messages import Blob, MaskedUpload
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import (
    CONNECT,
    FETCH,
    UPLOAD,
    TlsFailed,
    Unreachable,
    explain,
)
from fedit_secure.wire.channels import open_channel
from fedit_secure.wire.codec import PublishedNotice, decode, encode
from fedit_secure.wire.frames import FROM_AGGREGATOR, Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import SiloLink, checked_blob, fetch_sum
from fedit_secure.wire.outgoing import Outgoing
from fedit_secure.wire.probe import what_answers
from fedit_secure.wire.proxy import Proxy
from fedit_secure.wire.stream import Stream
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.traffic import Traffic

_log = logging.getLogger(__name__)


async def connect(
    address: str,
    tls: Tls,
    limits: Limits,
    *,
    proxy: Proxy | None = None,
    patience_seconds: float = 60.0,
    call_seconds: float = 20.0,
    progress_seconds: float = 60.0,
    traffic: Traffic | None = None,
) -> SiloLink:
    """Dial the aggregator at `host:port` until it answers and has accepted this silo.

    Tries again with exponential backoff and full jitter while nobody answers, at most
    `patience_seconds` long, and logs each reason once.

    Args:
        address: where the charter says that the aggregator listens.
        tls: see `Tls.of_silo`.
        limits: the sizes that the charter allows.
        proxy: the HTTP proxy to dial through (`proxy_for`); None dials directly.
        patience_seconds: how long to go on trying; 0 tries once.
        call_seconds: how long one try may take.
        progress_seconds: how long a transfer or a send may stand still.
        traffic: counts the bytes, by this address.

    Raises:
        ConnectError: nobody answers, or one of the two can't prove who it is, or a proxy
            refuses; the latter two at once.
    """
    told: set[str] = set()

    def tell(failed: RetryCallState) -> None:
        why = str(failed.outcome and failed.outcome.exception())
        if why not in told:
            told.add(why)
            _log.warning("%s; dialling goes on", why)

    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Unreachable),
        wait=wait_random_exponential(multiplier=0.5, max=15),
        stop=stop_after_delay(patience_seconds),
        before_sleep=tell,
        reraise=True,
    ):
        with attempt:
            channel, call = await _dial(address, tls, proxy, call_seconds)
            counted = Traffic() if traffic is None else traffic
            return GrpcSiloLink(
                address, channel, call, limits, progress_seconds, counted
            )
    raise AssertionError("tenacity either returns or raises")


async def _dial(
    address: str, tls: Tls, proxy: Proxy | None, call_seconds: float
) -> tuple[grpc.aio.Channel, Any]:
    channel = open_channel(address, tls, proxy)
    call = channel.stream_stream(CONNECT)()
    try:
        error = await _refusal(call, address, call_seconds)
    except BaseException:
        await channel.close()
        raise
    if error is None:
        return channel, call
    await channel.close()
    if isinstance(error, TlsFailed) or (proxy and isinstance(error, Unreachable)):
        raise await what_answers(address, tls, proxy) or error
    raise error


async def _refusal(call: Any, address: str, seconds: float) -> FeditError | None:
    """Why the aggregator hasn't accepted this silo; None if it has."""
    try:
        async with asyncio.timeout(seconds):
            # Its initial metadata says that it has accepted our leaf: with TLS 1.3 a
            # refused client certificate shows only after the handshake.
            await call.initial_metadata()
    except TimeoutError:
        call.cancel()
        what = f"the aggregator at {address} didn't answer within {seconds:.0f} s"
        return Unreachable(what)
    except grpc.aio.AioRpcError as error:
        return explain(error, address)
    return explain(await _status(call), address) if call.done() else None


async def _status(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )


class GrpcSiloLink:
    """A connection to the aggregator, with its stream open."""

    def __init__(
        self,
        address: str,
        channel: grpc.aio.Channel,
        call: Any,
        limits: Limits,
        progress_seconds: float,
        traffic: Traffic,
    ) -> None:
        self._address = address
        self._channel = channel
        self._call = call
        self._limits = limits
        self._progress = progress_seconds
        self._traffic = traffic
        self._stream = Stream(
            traffic.reading(address, self._read),
            traffic.writing(address, self._write),
            self._unpack,
            "the aggregator",
            progress_seconds,
        )
        self._pump = asyncio.create_task(self._stream.run(self._half_close))

    async def send(self, frame: Frame) -> None:
        """Queue a frame; an upload is uploaded."""
        if isinstance(frame, MaskedUpload):
            await self.upload(frame)
        else:
            await self._stream.send(encode(frame))

    async def receive(self) -> Frame:
        """The next frame; ConnectError at the end of the stream."""
        return await self._stream.inbox.take()

    async def upload(self, upload: MaskedUpload) -> None:
        """Send a masked upload in chunks, from the byte on that the aggregator lacks:
        what arrived before the network failed, on this link or an earlier, stays there.

        Raises:
            MalformedMessage: the aggregator refused its size or bytes.
            ConnectError, DeadlineExceeded: it didn't get there.
        """
        outgoing = Outgoing(upload, self._progress)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            wait=wait_random_exponential(multiplier=0.5, max=5),
            stop=outgoing.given_up,
            reraise=True,
        ):
            with attempt:
                if self._stream.inbox.closed:
                    raise ConnectError("the connection ended before the upload did")
                await self._upload(outgoing)

    async def fetch(
        self, address: bytes, max_bytes: int, check: Callable[[Blob], bytes]
    ) -> Blob:
        """A blob; MalformedMessage unless `check` of it is `address`."""
        call = self._channel.unary_stream(FETCH)(bulk.fetch_request(address))
        reader = bulk.BlobReader(max_bytes)
        try:
            while True:
                async with asyncio.timeout(self._progress):
                    data = await call.read()
                if data is grpc.aio.EOF:
                    break
                self._traffic.received[self._address] += len(data)
                reader.add(data)
        except TimeoutError:
            raise DeadlineExceeded("the transfer of a blob stood still") from None
        except grpc.aio.AioRpcError as error:
            raise explain(error, self._address) from None
        finally:
            call.cancel()
        blob = reader.whole()
        return await asyncio.to_thread(checked_blob, blob, address, max_bytes, check)

    async def close(self) -> None:
        """Let what is queued leave, and end the connection."""
        self._stream.close("the silo closed the link")
        await asyncio.wait({self._pump})
        self._call.cancel()
        await self._channel.close()

    # -------------------------------------------------------------------------- details

    async def _upload(self, outgoing: Outgoing) -> None:
        call = self._channel.stream_stream(UPLOAD)()

        async def read() -> bytes | None:
            data = await call.read()
            return None if data is grpc.aio.EOF else data

        try:
            counted = self._traffic.reading(self._address, read)
            write = self._traffic.writing(self._address, call.write)
            await outgoing.go(counted, write, call.done_writing)
        except TimeoutError:
            raise DeadlineExceeded("the upload stood still") from None
        except asyncio.InvalidStateError:  # it ended between two writes
            raise explain(await _status(call), self._address) from None
        except grpc.aio.AioRpcError as error:
            raise explain(error, self._address) from None
        finally:
            call.cancel()

    async def _unpack(self, data: bytes) -> Frame:
        frame = decode(data, self._limits, FROM_AGGREGATOR)
        if isinstance(frame, PublishedNotice):
            return await fetch_sum(self, frame, self._limits)
        return frame

    async def _read(self) -> bytes | None:
        try:
            data = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise explain(error, self._address) from None
        return None if data is grpc.aio.EOF else data

    async def _write(self, data: bytes) -> None:
        try:
            await self._call.write(data)
        except grpc.aio.AioRpcError as error:
            raise explain(error, self._address) from None
        except asyncio.InvalidStateError:
            raise ConnectError("the connection to the aggregator has ended") from None

    async def _half_close(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()
