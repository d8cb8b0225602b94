"""The three calls of the service, their options, and what their failures mean."""

from __future__ import annotations

from typing import Final

import grpc

from fedit_secure.errors import ConnectError, FeditError, MalformedMessage
from fedit_secure.wire.frames import printable
from fedit_secure.wire.limits import CHUNK, MAX_FRAME
from fedit_secure.wire.pb import federation_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["Federation"]
SERVICE: Final = _SERVICE.full_name
CONNECT, UPLOAD, FETCH = (
    f"/{SERVICE}/{_SERVICE.methods_by_name[name].name}"
    for name in ("Connect", "Upload", "Fetch")
)

_KEEPALIVE_MS = 30_000
MESSAGES: Final = (
    # A chunk with its own few bytes, or a frame: nothing larger is even read.
    ("grpc.max_receive_message_length", max(MAX_FRAME, CHUNK + 1024)),
    ("grpc.max_send_message_length", max(MAX_FRAME, CHUNK + 1024)),
    # Sums of masks can't be compressed, and what expands in memory isn't taken.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # A dead peer is noticed within a minute, though neither end has anything to say.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)
_SERVER: Final = (
    *MESSAGES,
    # Pings that a stall had piled up arrive at once. They are no reason to hang up on a
    # rostered silo that has waited for its peers, as gRPC does after the second.
    ("grpc.http2.max_ping_strikes", 0),
    # A port that is taken is an error, not a second aggregator behind the same port.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 16),  # per connection: one stream, few transfers
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.http2.bdp_probe", 0),
    # A connection that hasn't proved who it is within this time ends, and so does one
    # without a call: neither holds a place for long.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 60_000),
)
_STRANGERS: Final = 256  # connections beside those of the roster: 40 KiB each
_AHEAD: Final = 8 * CHUNK  # bytes that all silos together may have sent unread

_HANDSHAKE = ("handshake", "certificate", "verification", "ssl")
_CUT = "handshake read failed"
_HUNG_UP = ("socket closed", "reset by peer", "goaway", "eof")


def server_options(silos: int) -> list[tuple[str, int]]:
    """The aggregator's, for a roster of this size.

    A call may be so many bytes ahead of who reads it, however fast its silo's line is.
    They share one allowance, so what arrives takes the same memory from however many: ten
    silos have 0.8 MiB each, which at 100 ms is 8 MB a second.
    """
    ahead = min(CHUNK, max(_AHEAD // silos, CHUNK // 8))
    return [
        *_SERVER,
        ("grpc.http2.lookahead_bytes", ahead),
        # Beyond these a connection is closed as it is accepted, before it costs memory.
        ("grpc.max_allowed_incoming_connections", _STRANGERS + 4 * silos),
    ]


class Unreachable(ConnectError):
    """Nobody answers at the address: perhaps later."""


class TlsFailed(ConnectError):
    """No TLS came about: one of the two isn't whom the other expects."""


class CutInHandshake(TlsFailed, Unreachable):
    """The other end hung up during the handshake: perhaps it is overrun, or stopping."""


def explain(error: grpc.aio.AioRpcError, address: str) -> FeditError:
    """The error that a failed call stands for, in one sentence.

    `Unreachable` where another try may succeed; a refusal is final.
    """
    code, details = error.code(), printable(error.details() or "", 300)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return ConnectError(f"the aggregator at {address} refuses this silo: {details}")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return MalformedMessage(f"the aggregator at {address} refused {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ConnectError(
            f"what answers at {address} doesn't speak {SERVICE}: {details}"
        )
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
        return ConnectError(f"the aggregator at {address} says: {details}")
    if code is grpc.StatusCode.UNAVAILABLE:
        if _CUT in details.lower():
            return CutInHandshake(
                f"the aggregator at {address} hung up during the handshake ({details})"
            )
        if any(word in details.lower() for word in _HANDSHAKE):
            return TlsFailed(
                f"TLS with {address} failed, because it isn't the aggregator that the "
                f"charter pins or doesn't accept this silo's certificate ({details})"
            )
        if any(word in details.lower() for word in _HUNG_UP):
            return Unreachable(
                f"the aggregator at {address} hung up, because it is stopping or "
                f"doesn't accept this silo's certificate ({details})"
            )
        return Unreachable(f"the aggregator at {address} can't be reached ({details})")
    return Unreachable(
        f"the call to the aggregator at {address} ended: {code.name} {details}"
    )
