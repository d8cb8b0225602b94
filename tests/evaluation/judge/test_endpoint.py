"""Asking a real local endpoint that misbehaves as such endpoints do."""

from __future__ import annotations

import pytest
from evaluation.judging_server import VERDICT, JudgingServer

from fedit_secure.errors import ConfigError, ConnectError, DeadlineExceeded
from fedit_secure.evaluation.judge.endpoint import Endpoint, Key

CHAT = [{"role": "user", "content": "Which is better?"}]
KEY = Key("sk-secret")


@pytest.fixture
def server():
    with JudgingServer().serving() as running:
        yield running


@pytest.fixture
def waits():
    return []


@pytest.fixture
def ask(server, waits):
    def asking(**options):
        options = {"tries": 3, "sleep": waits.append} | options
        with Endpoint(server.url, "gpt", KEY, **options) as endpoint:
            return endpoint.ask(CHAT)

    return asking


def test_a_request_says_what_the_api_wants(server, ask):
    reply = ask(temperature=0.5, max_tokens=77)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == (
        VERDICT,
        100,
        10,
    )
    assert server.bodies == [
        {"model": "gpt", "messages": CHAT, "temperature": 0.5, "max_tokens": 77}
    ]
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize(
    "step",
    ["429", "500", "502", "503", "json", "choices", "object", "empty", "null",
     "truncated", "chunks", "reset", "huge"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server, ask, waits, step):
    server.script = [step, step]
    assert ask().text == VERDICT
    assert len(server.bodies) == 3
    assert waits == [1.0, 2.0]


def test_retry_after_is_obeyed_within_reason(server, ask, waits):
    server.script = ["429 7", "503 99999", "429 tomorrow", "429 -5", "429 nan"]
    assert ask(tries=6).text == VERDICT
    assert waits == [7.0, 120.0, 4.0, 8.0, 16.0]


def test_a_hanging_endpoint_is_a_timeout(server, ask):
    server.script = ["hang"] * 2
    with pytest.raises(DeadlineExceeded, match="in 2 tries: the last time it took too"):
        ask(tries=2, timeout=0.2)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("500", "answered 500"),
        ("truncated", "the connection failed"),
        ("choices", "no choice in it"),
        ("json", "wasn't JSON"),
        ("huge", "more than 4 MiB"),
    ],
)
def test_after_the_last_try_it_says_what_was_wrong_and_no_secret(
    server, ask, step, said
):
    server.script = [step] * 3
    with pytest.raises(ConnectError, match=said) as caught:
        ask()
    assert "sk-secret" not in str(caught.value)
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ConnectError), (403, ConnectError), (400, ConfigError), (404, ConfigError),
     (307, ConfigError)],
)  # fmt: skip
def test_what_cannot_pass_is_not_tried_again(server, ask, waits, status, kind):
    server.script = [str(status)]
    with pytest.raises(kind, match=f"answered {status}") as caught:
        ask()
    assert "sk-secret" not in str(caught.value)
    assert (len(server.bodies), waits) == (1, [])


@pytest.mark.parametrize(
    "url",
    ["http://judge.example/v1", "ftp://127.0.0.1/v1", "judge", "https://",
     "https://me:pw@judge.example/v1", "https://judge.example/v1?key=x", "http://[/v1"],
)  # fmt: skip
def test_a_url_that_would_leak_or_cannot_work_is_refused(url):
    with pytest.raises(ConfigError):
        Endpoint(url, "gpt")


def test_a_key_is_read_from_its_owners_file_and_shown_nowhere(tmp_path):
    path = tmp_path / "key"
    path.write_text("sk-secret\n")
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Key.read(path)
    path.chmod(0o600)
    key = Key.read(path)
    assert key.value == "sk-secret"
    assert "secret" not in repr(key)
    for content in ("", "two words", "line\nline", "schlüssel"):
        path.write_text(content)
        with pytest.raises(ConfigError, match="isn't an API key"):
            Key.read(path)
    with pytest.raises(ConfigError, match="can't be read"):
        Key.read(tmp_path / "none")
