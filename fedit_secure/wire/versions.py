"""Peers of another wire version are told so, whichever of the two is the newer.

A version is a number in the Hello and, since a change on the wire is a new protobuf
package, the number in the service's name.
"""

from __future__ import annotations

import re
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from fedit_secure.errors import ConnectError
from fedit_secure.wire.calls import SERVICE
from fedit_secure.wire.frames import WIRE_VERSION, CannotServe, Hello
from fedit_secure.wire.pb import federation_pb2 as pb

SPOKEN: Final = f"this aggregator speaks wire version {WIRE_VERSION}"
_ANY_VERSION: Final = re.compile("/" + re.sub(r"v\d+", r"v\\d+", SERVICE) + "/")


def check_version(data: bytes) -> CannotServe | None:
    """Why bytes that are no Hello of ours aren't one: they are another version's.

    None if they don't say so. Only the version's number is read of them.
    """
    try:
        said = pb.Envelope.FromString(data)
    except (DecodeError, ValueError):
        return None
    if said.WhichOneof("body") != "hello" or said.hello.wire_version == WIRE_VERSION:
        return None
    reason = f"{SPOKEN}, and this silo speaks {said.hello.wire_version}"
    return CannotServe(reason, ConnectError.exit_status)


def misfit(hello: Hello, name: str) -> CannotServe | None:
    """Why a silo whose certificate proves `name` isn't served with this Hello."""
    if hello.wire_version != WIRE_VERSION:
        reason = (
            f"{SPOKEN}, and silo {name!r} speaks {hello.wire_version} "
            f"(fedit-secure {hello.package_version})"
        )
    elif hello.silo != name:
        reason = f"the certificate of silo {name!r} isn't one of {hello.silo!r}"
    else:
        return None
    return CannotServe(reason, ConnectError.exit_status)


class OtherVersions(grpc.GenericRpcHandler):
    """Answers calls to the service of any other version with the version spoken here."""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None where it is for another service altogether."""
        if _ANY_VERSION.match(handler_call_details.method) is None:
            return None
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, SPOKEN)
