"""A silo's end of the wire: it dials out, proves itself, and holds calls to time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.secagg.messages import Blob, MaskedUpload
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import (
    CONNECT,
    FETCH,
    MESSAGES,
    UPLOAD,
    Unreachable,
    explain,
)
from fedit_secure.wire.codec import PublishedNotice, decode, encode
from fedit_secure.wire.frames import FROM_AGGREGATOR, Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import SiloLink, checked_blob, fetch_sum
from fedit_secure.wire.stream import Stream
from fedit_secure.wire.tls import Tls, is_loopback
from fedit_secure.wire.traffic import Traffic

_UPLOAD_TRIES = 4


async def connect(
    address: str,
    tls: Tls,
    limits: Limits,
    *,
    patience_seconds: float = 60.0,
    call_seconds: float = 20.0,
    progress_seconds: float = 60.0,
    traffic: Traffic | None = None,
) -> SiloLink:
    """Dial the aggregator at `host:port` until it answers and has accepted this silo.

    Tries again with exponential backoff and full jitter while nobody answers, at most
    `patience_seconds` long. Proxies from the environment are used, except on loopback.

    Args:
        address: where the charter says that the aggregator listens.
        tls: see `Tls.of_silo`.
        limits: the sizes that the charter allows.
        patience_seconds: how long to go on trying; 0 tries once.
        call_seconds: how long one try may take.
        progress_seconds: how long a transfer or a send may stand still.
        traffic: counts the bytes, by this address.

    Raises:
        ConnectError: nobody answers, or one of the two can't prove who it is; the
            latter at once.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(Unreachable),
        wait=wait_random_exponential(multiplier=0.5, max=15),
        stop=stop_after_delay(patience_seconds),
        reraise=True,
    ):
        with attempt:
            return await _dial(
                address,
                tls,
                limits,
                call_seconds,
                progress_seconds,
                traffic or Traffic(),
            )
    raise AssertionError("tenacity either returns or raises")


async def _dial(
    address: str,
    tls: Tls,
    limits: Limits,
    call_seconds: float,
    progress_seconds: float,
    traffic: Traffic,
) -> GrpcSiloLink:
    options: list[tuple[str, Any]] = [
        *MESSAGES,
        # The leaf carries the party's own name, whatever the host is called.
        ("grpc.ssl_target_name_override", tls.peer_name),
        ("grpc.enable_http_proxy", int(not is_loopback(address))),
        ("grpc.use_local_subchannel_pool", 1),  # a renewed leaf is really shown
    ]
    credentials = grpc.ssl_channel_credentials(tls.roots, tls.private_key, tls.chain)
    channel = grpc.aio.secure_channel(address, credentials, options)
    call = channel.stream_stream(CONNECT)()
    try:
        async with asyncio.timeout(call_seconds):
            # The aggregator's initial metadata says that it has accepted our leaf: with
            # TLS 1.3 a refused client certificate shows only after the handshake.
            await call.initial_metadata()
    except TimeoutError:
        call.cancel()
        await channel.close()
        raise Unreachable(
            f"the aggregator at {address} didn't answer within {call_seconds:.0f} s"
        ) from None
    except grpc.aio.AioRpcError as error:
        await channel.close()
        raise explain(error, address) from None
    except BaseException:
        await channel.close()
        raise
    if call.done():
        status = await _status(call)
        await channel.close()
        raise explain(status, address)
    return GrpcSiloLink(address, channel, call, limits, progress_seconds, traffic)


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
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            wait=wait_random_exponential(multiplier=0.5, max=5),
            stop=stop_after_attempt(_UPLOAD_TRIES),
            reraise=True,
        ):
            with attempt:
                if self._stream.inbox.closed:
                    raise ConnectError("the connection ended before the upload did")
                await self._upload(upload)

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

    async def _upload(self, upload: MaskedUpload) -> None:
        header = upload.header
        call = self._channel.stream_stream(UPLOAD)()

        async def answer(*, whole: bool) -> int:
            async with asyncio.timeout(self._progress):
                data = await call.read()
            if data is grpc.aio.EOF:
                raise Unreachable("the upload ended without an answer")
            return bulk.upload_held(data, header, whole=whole)

        try:
            await call.write(bulk.upload_start(header))
            # A refusal comes now: gRPC can't tell its reason to a caller in mid-write.
            held = await answer(whole=False)
            for chunk in bulk.upload_chunks(upload.payload, held):
                async with asyncio.timeout(self._progress):
                    await call.write(chunk)
                self._traffic.sent[self._address] += len(chunk)
            await call.done_writing()
            await answer(whole=True)
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
