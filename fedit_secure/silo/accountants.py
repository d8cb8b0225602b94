"""The accountants of a daemon, in a process of their own that ends when it isn't needed."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Final

from fedit_secure.errors import StorageError
from fedit_secure.silo.accounting import Question, take_reply

KEEP_SECONDS: Final = 120.0
"""After an answer: rounds of a minute would start it for every one of them."""
_PROGRAM: Final = ("-m", "fedit_secure.silo.accounting")


class Accountants:
    """Called with a question it gives `accounting.answer`'s answer, or raises what that
    does; StorageError if the process dies over it, and then nothing is charged.

    Called from worker threads. `close` may be called from any other, and ends a call.
    """

    def __init__(self, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep = keep_seconds
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._later: threading.Timer | None = None

    def __call__(self, question: Question) -> str:
        with self._turn:
            if self._later is not None:
                self._later.cancel()
            if self._process is None:
                pipe = subprocess.PIPE
                command = [sys.executable, *_PROGRAM]
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
            said = self._ask(self._process, question.to_json().encode() + b"\n")
            if not said.endswith(b"\n"):
                raise StorageError(
                    f"the accounting process ended with status {self._end()}; nothing "
                    "was charged"
                )
            self._later = threading.Timer(self._keep, self._no_longer_needed)
            self._later.daemon = True
            self._later.start()
        return take_reply(said)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._later is not None:
            self._later.cancel()
        process = self._process
        if process is not None:
            process.kill()
        with self._turn:
            self._end()

    def _ask(self, process: subprocess.Popen[bytes], line: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except (BrokenPipeError, ConnectionResetError):
            return b""
        return process.stdout.readline()

    def _no_longer_needed(self) -> None:
        with self._turn:
            if self._later is threading.current_thread():
                self._end()

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with process:  # closes its pipes, by which it ends, and waits
            pass
        return process.returncode
