"""The same bytes over bare TLS sockets and over bare gRPC, to a process that drops them.

Bare means: no header, no offsets, no digest, no disk, no sum. Mutual TLS with the same
certificates, one connection a sender, all senders at once, messages of 1 MiB.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import grpc

_MESSAGE = 1 << 20
_CALL = "/bare/Drop"
_Call: TypeAlias = Any  # grpc carries no types


class Bare:
    """Two receivers in one process; `async with` starts it.

    Args:
        receiver, senders: (key PEM, chain PEM) each.
        roots: issuers of all of them, PEM.
        name: what the receiver's certificate says.
    """

    def __init__(
        self,
        receiver: tuple[bytes, bytes],
        senders: list[tuple[bytes, bytes]],
        roots: str,
        name: str,
    ) -> None:
        self.receiver, self.senders = receiver, senders
        self.roots, self.name = roots, name

    async def __aenter__(self) -> Bare:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, stdin=pipe, stdout=pipe
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        key, chain = (part.decode() for part in self.receiver)
        what = {"key": key, "chain": chain, "roots": self.roots}
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._at = json.loads(await self._process.stdout.readline())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()

    async def tls_seconds(self, payload: bytes) -> float:
        """Until the last sender's bytes were all read."""
        return await asyncio.to_thread(self._over_tls, memoryview(payload))

    def _over_tls(self, payload: memoryview) -> float:
        sockets = [self._dial(sender) for sender in self.senders]

        def send(line: ssl.SSLSocket) -> None:
            line.sendall(len(payload).to_bytes(8, "big"))
            for at in range(0, len(payload), _MESSAGE):
                line.sendall(payload[at : at + _MESSAGE])
            assert line.recv(1) == b"."

        with ThreadPoolExecutor(len(sockets)) as pool:
            began = time.monotonic()
            list(pool.map(send, sockets))
            seconds = time.monotonic() - began
        for line in sockets:
            line.close()
        return seconds

    def _dial(self, sender: tuple[bytes, bytes]) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=self.roots)
        _load(context, *sender)
        line = socket.create_connection(("127.0.0.1", self._at["tls"]))
        return context.wrap_socket(line, server_hostname=self.name)

    async def grpc_seconds(self, payload: bytes) -> float:
        """Until the last call was answered."""
        view = memoryview(payload)
        options = [("grpc.ssl_target_name_override", self.name)]
        options += [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            grpc.aio.secure_channel(
                f"127.0.0.1:{self._at['grpc']}",
                grpc.ssl_channel_credentials(self.roots.encode(), *sender),
                options,
            )
            for sender in self.senders
        ]

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(view), _MESSAGE):
                yield bytes(view[at : at + _MESSAGE])

        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        began = time.monotonic()
        calls = [channel.stream_unary(_CALL)(pieces()) for channel in channels]
        assert set(await asyncio.gather(*calls)) == {b"."}
        seconds = time.monotonic() - began
        await asyncio.gather(*(channel.close() for channel in channels))
        return seconds


def _load(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:  # the module takes files only
        Path(file.name).write_bytes(key + chain)
        context.load_cert_chain(file.name)


def _drop_tls(what: dict[str, str]) -> int:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=what["roots"])
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, what["key"].encode(), what["chain"].encode())
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def drop(line: socket.socket) -> None:
        with context.wrap_socket(line, server_side=True) as secured:
            left, buffer = int.from_bytes(secured.recv(8), "big"), bytearray(_MESSAGE)
            while left:
                left -= secured.recv_into(buffer)
            secured.sendall(b".")

    def accept() -> None:
        while True:
            line, _ = listener.accept()
            threading.Thread(target=drop, args=(line,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


async def _drop_all(what: dict[str, str]) -> None:
    async def drop(messages: AsyncIterator[bytes], _: _Call) -> bytes:
        async for _message in messages:
            pass
        return b"."

    server = grpc.aio.server()
    handler = grpc.stream_unary_rpc_method_handler(drop)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("bare", {"Drop": handler}),)
    )
    credentials = grpc.ssl_server_credentials(
        [(what["key"].encode(), what["chain"].encode())],
        what["roots"].encode(),
        require_client_auth=True,
    )
    ports = {"grpc": server.add_secure_port("127.0.0.1:0", credentials)}
    await server.start()
    ports["tls"] = _drop_tls(what)
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_drop_all(json.loads(sys.stdin.readline())))
