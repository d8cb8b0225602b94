"""`python -m fedit_secure.wire.ask_health host:port`: is the aggregator there serving?

For a container's health check: status 0 if it says SERVING, 1 otherwise.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

SECONDS = 5.0


def serving(address: str) -> bool:
    """Whether `grpc.health.v1` at host:port says that the server as a whole serves."""
    request = health_pb2.HealthCheckRequest()
    direct = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=direct) as channel:
        try:
            answer = HealthStub(channel).Check(request, timeout=SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(len(sys.argv) != 2 or not serving(sys.argv[1]))
