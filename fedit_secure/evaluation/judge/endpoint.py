"""An OpenAI-compatible endpoint, asked until it answers or plainly won't.

Nothing of what it sends back is put into an error but its status: a body may repeat
prompts or the key.
"""

from __future__ import annotations

import ipaddress
import json
import math
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
)

from fedit_secure.errors import ConfigError, ConnectError, DeadlineExceeded
from fedit_secure.federation.durable import read_file

_MOST_BYTES = 4 << 20  # of one response
_LONGEST_WAIT = 120.0  # seconds, whatever Retry-After says
_AGAIN = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, which shows itself nowhere."""

    value: str = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Key:
        """The key in a file that only its owner can read. Raises ConfigError."""
        value = read_file(path, "the key file", limit=1 << 12)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path}: others can read this key: chmod 600 it")
        text = value.decode("ascii", errors="replace").strip()
        if not text or not text.isprintable() or not text.isascii() or " " in text:
            raise ConfigError(f"{path}: isn't an API key on one line")
        return cls(text)


@dataclass(frozen=True, slots=True)
class Reply:
    """`text` of the first choice; tokens as the endpoint counted them, 0 if it doesn't."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class _Transient(Exception):
    """May be better next time. `after`: seconds that the endpoint asked us to wait."""

    def __init__(
        self, what: str, after: float | None = None, *, late: bool = False
    ) -> None:
        super().__init__(what)
        self.after, self.late = after, late


class Endpoint:
    """A context. `url` is the base that ends before /chat/completions.

    Args:
        url: https, or http to this machine alone.
        model: the judge's name there.
        key: sent as a bearer token; None sends none.
        temperature, max_tokens: of every reply.
        timeout: seconds without a byte.
        tries: of one request, before it counts as failed.

    Raises ConfigError for an URL that would show the key to a network.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: Key | None = None,
        *,
        temperature: float = 0.2,
        max_tokens: int = 1024,
        timeout: float = 120.0,
        tries: int = 6,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx2

        self._where = _checked(url)
        self.model, self.temperature, self.max_tokens = model, temperature, max_tokens
        self._tries, self._sleep = tries, sleep
        headers = {} if key is None else {"Authorization": f"Bearer {key.value}"}
        self._client = httpx2.Client(
            headers=headers, timeout=timeout, follow_redirects=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, messages: Sequence[dict[str, str]]) -> Reply:
        """The reply to a chat.

        Raises ConfigError where another try can't help (a wrong key, model or request),
        ConnectError or DeadlineExceeded where all tries failed.
        """
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        retrying = Retrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_after_attempt(self._tries),
            wait=_wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(self._once, body)
        except _Transient as last:
            kind = DeadlineExceeded if last.late else ConnectError
            raise kind(
                f"{self._where} gave no reply in {self._tries} tries: the last time {last}"
            ) from None

    def _once(self, body: dict[str, Any]) -> Reply:
        import httpx2

        data = bytearray()
        try:
            with self._client.stream("POST", self._where, json=body) as response:
                self._refuse(response.status_code, response.headers.get("Retry-After"))
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > _MOST_BYTES:
                        raise _Transient("it sent more than 4 MiB")
        except httpx2.TimeoutException:
            raise _Transient("it took too long", late=True) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Transient(
                f"the connection failed ({type(error).__name__})"
            ) from None
        return _reply(bytes(data))

    def _refuse(self, status: int, after: str | None) -> None:
        if status in _AGAIN or status >= 500:
            raise _Transient(f"it answered {status}", _seconds(after))
        if status in (401, 403):
            raise ConnectError(
                f"{self._where} answered {status}: it doesn't take the key"
            )
        if not 200 <= status < 300:
            raise ConfigError(
                f"{self._where} answered {status}: it doesn't take this request "
                f"(is {self.model!r} a model there, and the URL its base?)"
            )


def _wait(state: RetryCallState) -> float:
    """What Retry-After says, or a doubling wait from one second."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, _Transient) and error.after is not None:
        return min(error.after, _LONGEST_WAIT)
    return min(2.0 ** (state.attempt_number - 1), _LONGEST_WAIT)


def _seconds(after: str | None) -> float | None:
    try:
        seconds = float(after or "")
    except ValueError:  # a date, or nothing: the usual wait then
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _reply(data: bytes) -> Reply:
    try:
        content = json.loads(data)
        text = content["choices"][0]["message"]["content"]
    except (ValueError, RecursionError):
        raise _Transient("its reply wasn't JSON") from None
    except (LookupError, TypeError):
        raise _Transient("its reply had no choice in it") from None
    if not isinstance(text, str) or not text.strip():
        raise _Transient("its reply was empty")
    usage = content.get("usage")
    counts = [
        usage.get(name) if isinstance(usage, dict) else None
        for name in ("prompt_tokens", "completion_tokens")
    ]
    prompt, completion = (c if isinstance(c, int) and c >= 0 else 0 for c in counts)
    return Reply(text, prompt, completion)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise ConfigError(f"{url!r} isn't a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{url!r} isn't an http(s) URL")
    if parts.username or parts.password or parts.query:
        raise ConfigError("the endpoint's URL must hold no password and no query")
    if parts.scheme == "http" and not _local(host):
        raise ConfigError(f"{url}: plain http would show answers and key: use https")
    return url.rstrip("/") + "/chat/completions"


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
