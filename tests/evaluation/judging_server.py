"""An OpenAI-compatible endpoint on loopback that misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERDICT = "7 9\nB says more."


def completion(text: str) -> bytes:
    """What such an endpoint answers."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    choice = {"message": {"role": "assistant", "content": text}}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


class JudgingServer:
    """`script`: what the next requests get, by name; then `reply` says it of the body."""

    def __init__(self) -> None:
        self.script: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[dict[str, Any]], str] = lambda _: VERDICT
        self.released = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                outer.bodies.append(json.loads(self.rfile.read(length)))
                outer.headers.append(dict(self.headers))
                assert self.path == "/v1/chat/completions"
                step = outer.script.pop(0) if outer.script else "ok"
                outer.play(self, step)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # A caller that hangs up is part of the game, and no news for the test's output.
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def play(self, to: BaseHTTPRequestHandler, step: str) -> None:
        """One request's fate."""
        name, _, detail = step.partition(" ")
        data = completion(self.reply(self.bodies[-1]))
        if name.isdigit():
            headers = {"Retry-After": detail} if detail else {}
            self._send(to, int(name), b"the key was sk-secret", **headers)
        elif name in ("truncated", "chunks", "reset", "hang"):
            self._break_off(to, name, data)
        else:
            bodies = {
                "ok": data,
                "json": data[:-9],
                "choices": b'{"choices": []}',
                "object": b"[]",
                "empty": completion("  "),
                "null": data.replace(json.dumps(VERDICT).encode(), b"null"),
                "huge": b" " * (5 << 20),
                "words": completion("I prefer B."),
            }
            self._send(to, 200, bodies[name])

    def _break_off(self, to: BaseHTTPRequestHandler, name: str, data: bytes) -> None:
        """A response that never becomes whole."""
        to.close_connection = True
        if name == "truncated":
            self._send(to, 200, data, **{"Content-Length": str(len(data) + 50)})
        elif name == "chunks":
            to.send_response(200)
            to.send_header("Transfer-Encoding", "chunked")
            to.end_headers()
            to.wfile.write(b"%x\r\n%s\r\n" % (20, data[:20]))
        elif name == "reset":
            to.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.released.wait(120)

    @staticmethod
    def _send(
        to: BaseHTTPRequestHandler, status: int, data: bytes, **headers: str
    ) -> None:
        to.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        try:
            to.wfile.write(data)
        except OSError:
            to.close_connection = True

    @contextmanager
    def serving(self) -> Iterator[JudgingServer]:
        """While this is entered, it answers."""
        thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._http.shutdown()
            self._http.server_close()
            thread.join()
