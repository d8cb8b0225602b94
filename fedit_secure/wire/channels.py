"""The one way in which a silo opens a channel to its aggregator."""

from __future__ import annotations

from typing import Any

import grpc

from fedit_secure.wire.calls import MESSAGES
from fedit_secure.wire.proxy import Proxy
from fedit_secure.wire.tls import Tls


def open_channel(address: str, tls: Tls, proxy: Proxy | None) -> grpc.aio.Channel:
    """A channel to the aggregator at `host:port`, with TLS to its end, proxy or not."""
    options: list[tuple[str, Any]] = [
        *MESSAGES,
        # The leaf carries the party's own name, whatever the host is called.
        ("grpc.ssl_target_name_override", tls.peer_name),
        ("grpc.enable_http_proxy", 0),  # gRPC's own reading of the environment
        ("grpc.use_local_subchannel_pool", 1),  # a renewed leaf is really shown
    ]
    target = address
    if proxy is not None:
        options += proxy.options(address)
        target = proxy.address
    credentials = grpc.ssl_channel_credentials(tls.roots, tls.private_key, tls.chain)
    return grpc.aio.secure_channel(target, credentials, options)
