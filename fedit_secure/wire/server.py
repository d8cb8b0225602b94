"""The aggregator's end of the wire: a grpc.aio service, bytes in and frames out.

It decides who a peer is and how much it may send, and nothing else. Every call proves
its silo anew by the leaf certificate of its own connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeAlias

import grpc

from fedit_secure import log_fields
from fedit_secure.errors import (
    ConfigError,
    ConnectError,
    FeditError,
    MalformedMessage,
    StorageError,
)
from fedit_secure.secagg.messages import MaskedUpload
from fedit_secure.wire import bulk
from fedit_secure.wire.calls import SERVICE, server_options
from fedit_secure.wire.codec import decode_from_silo, encode
from fedit_secure.wire.frames import CannotServe, Frame, Hello, printable
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import BlobSource, PeerLink, Published, encode_for_silo
from fedit_secure.wire.stream import Stream
from fedit_secure.wire.tls import Gatekeeper, Tls
from fedit_secure.wire.traffic import Traffic
from fedit_secure.wire.uploads import Uploads, UploadsClosed
from fedit_secure.wire.versions import OtherVersions, check_version, misfit

_log = logging.getLogger(__name__)
MOST_CALLS = 16  # of one silo at a time, over all its connections: it needs three

_Context: TypeAlias = Any  # grpc.aio.ServicerContext; grpc carries no types
OnConnect = Callable[[PeerLink, Hello], Awaitable[None]]


class GrpcPeerLink:
    """The aggregator's end of one silo's connection."""

    def __init__(
        self, silo: int, name: str, stream: Stream, published: Published
    ) -> None:
        self.silo = silo
        self.name = name
        self.stream = stream
        self._published = published

    async def send(self, frame: Frame) -> None:
        """Queue a frame; a silo that reads nothing for too long is cut off."""
        await self.stream.send(encode_for_silo(frame, self._published))

    async def receive(self) -> Frame:
        """The next frame or upload, in the order in which they were whole."""
        return await self.stream.inbox.take()

    async def close(self) -> None:
        """End the connection once what is queued has left."""
        self.stream.close("the aggregator closed the link")

    def refuse(self, reason: CannotServe) -> None:
        """End the connection with the reason as its last frame."""
        self.stream.close(reason.reason, encode(reason))


class AggregatorServer:
    """Serves the silos of one charter.

    `on_connect` is awaited for every silo that has proved who it is, in a task of its
    own; the link lives on after it returns, until either end closes it. A FeditError
    that it raises is sent to the silo as CannotServe. A silo that connects again ends
    its earlier connection, whose `receive` then raises, before its new `on_connect`.

    Args:
        host: the address to listen on.
        port: 0 takes a free one; `start` returns it.
        tls: what this party shows; see `Tls.of_aggregator`.
        roster: (silo name, issuer certificate PEM) in charter order.
        on_connect: see above.
        uploads: what takes the silos' uploads; they outlive a broken connection.
        blobs: what silos may fetch besides published sums.
        limits: the sizes that the charter allows.
        serials: the highest leaf serial seen per silo; kept up to date.
        traffic: counts each silo's bytes, by its name.
        progress_seconds: how long a transfer or a send may stand still.
        hello_seconds: how long a new connection may stay silent.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: Tls,
        roster: Sequence[tuple[str, str]],
        on_connect: OnConnect,
        uploads: Uploads,
        blobs: BlobSource,
        limits: Limits,
        *,
        serials: MutableMapping[str, int] | None = None,
        traffic: Traffic | None = None,
        progress_seconds: float = 60.0,
        hello_seconds: float = 20.0,
    ) -> None:
        self._address = f"{host}:{port}"
        self._tls = tls
        self._renewed: Tls | None = None
        self._gate = Gatekeeper(roster, lambda: datetime.now(UTC), serials)
        self._on_connect = on_connect
        self._uploads = uploads
        self._traffic = Traffic() if traffic is None else traffic
        self._published = Published(blobs)
        self._limits = limits
        self._progress = progress_seconds
        self._hello = hello_seconds
        self._live: dict[int, GrpcPeerLink] = {}
        self._calls: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Any = None

    async def start(self) -> int:
        """Listen; returns the port. ConfigError if the address can't be had."""
        server = grpc.aio.server(options=server_options(len(self._gate.names)))
        handlers = {
            "Connect": grpc.stream_stream_rpc_method_handler(self._connect),
            "Upload": grpc.stream_stream_rpc_method_handler(self._upload),
            "Fetch": grpc.unary_stream_rpc_method_handler(self._fetch),
        }
        ours = grpc.method_handlers_generic_handler(SERVICE, handlers)
        server.add_generic_rpc_handlers((ours, OtherVersions()))
        credentials = grpc.dynamic_ssl_server_credentials(
            _certificates(self._tls), self._renewal, require_client_authentication=True
        )
        try:
            port = int(server.add_secure_port(self._address, credentials))
        except RuntimeError as error:
            raise ConfigError(f"can't listen on {self._address}") from error
        await server.start()
        self._server = server
        return port

    def renew(self, tls: Tls) -> None:
        """Show a new leaf to connections from now on; the present ones stay."""
        self._renewed = tls

    async def stop(self, grace_seconds: float = 2.0) -> None:
        """Close every link, let what is queued leave, and stop listening."""
        for peer in list(self._live.values()):
            await peer.close()
        if self._server is not None:
            await self._server.stop(grace_seconds)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _renewal(self) -> Any:
        renewed, self._renewed = self._renewed, None
        return None if renewed is None else _certificates(renewed)

    # ------------------------------------------------------------------------ the calls

    async def _connect(self, _: AsyncIterator[bytes], context: _Context) -> None:
        async with self._admitted(context) as silo:
            await context.send_initial_metadata(())
            hello = await self._first_frame(silo, context)
            if hello is not None:
                await self._meet(silo, hello, context)

    async def _first_frame(self, silo: int, context: _Context) -> Hello | None:
        try:
            async with asyncio.timeout(self._hello):
                first = await _read(context)
        except TimeoutError:
            await _abort(context, "DEADLINE_EXCEEDED", "no Hello came in time")
        if first is None:
            return None
        try:
            hello = decode_from_silo(first, self._limits)
        except MalformedMessage as error:
            if (refusal := check_version(first)) is not None:
                name = self._gate.names[silo]
                _log.warning("silo %r is refused: %s", name, refusal.reason)
                await context.write(encode(refusal))
                return None
            await _abort(context, "INVALID_ARGUMENT", str(error))
        if not isinstance(hello, Hello):
            await _abort(context, "INVALID_ARGUMENT", "a stream without a Hello")
        return hello

    async def _meet(self, silo: int, hello: Hello, context: _Context) -> None:
        name = self._gate.names[silo]
        if (refusal := misfit(hello, name)) is not None:
            _log.warning("silo %r is refused: %s", name, refusal.reason)
            await context.write(encode(refusal))
            return
        await self._serve(self._peer(silo, context), hello, context)

    async def _serve(self, peer: GrpcPeerLink, hello: Hello, context: _Context) -> None:
        earlier = self._live.get(peer.silo)
        if earlier is not None:
            _log.warning(
                "silo %r connected a second time, from %s: either two daemons share its "
                "identity, or its first connection broke unnoticed; that one ends now",
                peer.name,
                printable(context.peer()),
            )
            reason = f"silo {peer.name!r} connected a second time, from elsewhere"
            earlier.refuse(CannotServe(reason, ConnectError.exit_status))
        self._live[peer.silo] = peer
        task = asyncio.create_task(self._welcome(peer, hello))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await peer.stream.run()
        finally:
            if self._live.get(peer.silo) is peer:
                del self._live[peer.silo]
        if isinstance(peer.stream.failure, MalformedMessage):
            _log.warning("silo %r is cut off: %s", peer.name, peer.stream.failure)
            await _abort(context, "INVALID_ARGUMENT", str(peer.stream.failure))

    async def _welcome(self, peer: GrpcPeerLink, hello: Hello) -> None:
        try:
            await self._on_connect(peer, hello)
        except FeditError as error:
            if not peer.stream.inbox.closed:
                _log.warning("silo %r is refused: %s", peer.name, error)
            peer.refuse(CannotServe(str(error), error.exit_status))
        except Exception:
            _log.exception("serving silo %r failed", peer.name)
            peer.refuse(CannotServe("the aggregator failed", FeditError.exit_status))
            raise

    async def _upload(self, _: AsyncIterator[bytes], context: _Context) -> None:
        async with self._admitted(context) as silo:
            await self._take_upload(silo, context)

    async def _take_upload(self, silo: int, context: _Context) -> None:
        if silo not in self._live:
            await _abort(context, "FAILED_PRECONDITION", "an upload needs a connection")
        name = self._gate.names[silo]

        async def read() -> bytes | None:
            async with asyncio.timeout(self._progress):
                return await _read(context)

        async def write(data: bytes) -> None:
            async with asyncio.timeout(self._progress):
                await context.write(data)

        async def deliver(upload: MaskedUpload) -> None:
            peer = self._live.get(silo)  # perhaps no longer the one at the call's start
            if peer is None:
                raise ConnectError(
                    "the silo's connection broke before it was handed on"
                )
            await peer.stream.inbox.put(upload)

        try:
            await self._uploads.take(
                silo,
                self._traffic.reading(name, read),
                self._traffic.writing(name, write),
                deliver,
            )
        except MalformedMessage as error:
            _log.warning("silo %r sent a bad upload: %s", name, error)
            await _abort(context, "INVALID_ARGUMENT", str(error))
        except UploadsClosed as error:
            await _abort(context, "FAILED_PRECONDITION", str(error))
        except StorageError as error:
            _log.warning("an upload of silo %r can't be kept: %s", name, error)
            await _abort(context, "RESOURCE_EXHAUSTED", "no room for the upload")
        except TimeoutError:
            await _abort(context, "DEADLINE_EXCEEDED", "the upload stood still")
        except ConnectError as error:
            _log.info("silo %r: %s", name, error)
            await _abort(context, "ABORTED", str(error))

    async def _fetch(self, request: bytes, context: _Context) -> None:
        async with self._admitted(context) as silo:
            write = self._traffic.writing(self._gate.names[silo], context.write)
            for chunk in await self._blob(request, context):
                await write(chunk)

    async def _blob(self, request: bytes, context: _Context) -> Iterator[bytes]:
        try:
            address = bulk.fetch_address(request)
            blob = await asyncio.to_thread(self._published.get, address)
        except MalformedMessage as error:
            await _abort(context, "INVALID_ARGUMENT", str(error))
        except StorageError as error:
            _log.warning("a blob can't be read: %s", error)
            await _abort(context, "INTERNAL", "the blob can't be read")
        if blob is None:
            await _abort(context, "NOT_FOUND", f"there is no blob {address.hex()[:16]}")
        return bulk.blob_chunks(blob)

    # -------------------------------------------------------------------------- details

    @asynccontextmanager
    async def _admitted(self, context: _Context) -> AsyncIterator[int]:
        """For one call: the silo that its certificate proves, if it has calls left."""
        certificates = context.auth_context().get("x509_pem_cert", (b"",))
        try:
            silo = self._gate.identify(certificates[0])
        except ConnectError as error:
            _log.warning("refused %s: %s", printable(context.peer()), error)
            await _abort(context, "UNAUTHENTICATED", str(error))
        if self._calls[silo] >= MOST_CALLS:
            name = self._gate.names[silo]
            await _abort(
                context, "RESOURCE_EXHAUSTED", f"silo {name!r} has too many calls open"
            )
        self._calls[silo] += 1
        log_fields.about_silo(self._gate.names[silo])
        try:
            yield silo
        finally:
            self._calls[silo] -= 1

    def _peer(self, silo: int, context: _Context) -> GrpcPeerLink:
        name = self._gate.names[silo]

        async def unpack(data: bytes) -> Frame:
            return decode_from_silo(data, self._limits)

        stream = Stream(
            self._traffic.reading(name, lambda: _read(context)),
            self._traffic.writing(name, context.write),
            unpack,
            f"silo {name!r}",
            self._progress,
        )
        return GrpcPeerLink(silo, name, stream, self._published)


async def _read(context: _Context) -> bytes | None:
    """The next message of a call; None at its end; ConnectError if it broke."""
    try:
        data = await context.read()
    except (grpc.aio.UsageError, grpc.RpcError, asyncio.InvalidStateError) as error:
        raise ConnectError("the silo's connection broke") from error
    return None if data is grpc.aio.EOF else data


async def _abort(context: _Context, code: str, details: str) -> NoReturn:
    await context.abort(grpc.StatusCode[code], printable(details))
    raise AssertionError("abort raises")


def _certificates(tls: Tls) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(tls.private_key, tls.chain)], tls.roots
    )
