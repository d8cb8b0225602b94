"""`fedit doctor` on the way to the aggregator: names, ports, proxies, who answers."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from fedit_secure.cli.diagnosis import network
from fedit_secure.federation.approval import load_approvals
from fedit_secure.federation.identity import create_identity, issue_leaf

NETWORK = ("address", "aggregator", "accepted")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def look(fedit, federation):
    """Looks at clinic-a's way to an address; gives (result, found) by check."""
    config = federation / "clinic-a" / "silo.yaml"
    text = config.read_text()

    def run(address):
        config.write_text(f"{text}aggregator: {{address: '{address}'}}\n")
        result = fedit("doctor", config, "--quick", "--format", "json")
        rows = {row["check"]: row for row in result.json["findings"]}
        run.status = result.status
        return {name: (rows[name]["result"], rows[name]["found"]) for name in NETWORK}

    return run


@contextmanager
def listening(serve):
    """A server on loopback that hands each connection to `serve`, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def tls_server(folder, leaf):
    """Serves TLS with a leaf, and says nothing."""
    (folder / "leaf.key").write_bytes(leaf[0])
    (folder / "leaf.pem").write_bytes(leaf[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")

    def serve(connection):
        try:
            with context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            pass

    return serve


def hub_identity(federation):
    from fedit_secure.federation.identity import load_identity

    return load_identity(federation / "hub" / "identity")


@pytest.fixture
def aggregator(federation, fedit):
    """The federation's aggregator as a process, with every approval; its address."""
    approvals = federation / "hub" / "approvals"
    approvals.mkdir()
    for name in ("clinic-a", "clinic-b", "clinic-c", "clinic-d"):
        config = federation / name / "silo.yaml"
        assert fedit("charter", "approve", config, "--yes").status == 0
        approval = federation / name / f"{name}.approval"
        approval.rename(approvals / approval.name)
    assert len(load_approvals([approvals])) == 4
    hub = federation / "hub" / "aggregator.yaml"
    text = hub.read_text().replace("charter: charter.json", "charter: ../charter.json")
    hub.write_text(text.replace("initial_state: ", "initial_state: ../"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [sys.executable, "-m", "fedit_secure.cli.main", "aggregator", "serve", hub,
         "--listen", address],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "serving 'north'" in line:
            break
    else:
        pytest.fail("the aggregator never came up")
    # Read on: a full pipe would stop it.
    said = []
    threading.Thread(target=lambda: said.extend(process.stderr), daemon=True).start()
    yield address, said
    process.terminate()
    assert process.wait(60) == 0


def test_an_aggregator_that_accepts_this_silo(look, aggregator, federation):
    address, said = aggregator
    serial = federation / "clinic-a" / "identity" / "leaf.serial"
    serial.write_text("5\n")
    found = look(address)
    assert {name: found[name][0] for name in NETWORK} == dict.fromkeys(NETWORK, "PASS")
    assert look.status == 0
    assert found["aggregator"][1] == "nobody but 'hub' answers there"
    # It took part in nothing, and left no trace that would lock the daemon out.
    assert serial.read_text() == "5\n"
    assert not [line for line in said if "refused" in line or "clinic-a" in line]
    # A newer leaf of this silo was seen since: the one shown is refused, in words.
    serial.write_text("9\n")
    assert look(address)["accepted"][0] == "PASS"
    serial.write_text("8\n")
    found = look(address)
    assert found["accepted"][0] == "FAIL"
    assert "older than one that it has shown" in found["accepted"][1]
    assert look.status == 2


def test_through_a_proxy_that_is_set(look, aggregator, monkeypatch):
    address, _ = aggregator
    asked = []

    def serve(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(4096)
        asked.append(head.decode())
        host, port = address.split(":")
        there = socket.create_connection((host, int(port)))
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for one, other in ((connection, there), (there, connection)):
            threading.Thread(target=copy, args=(one, other), daemon=True).start()

    def copy(one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        other.close()

    with listening(serve) as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:secret@{proxy}")
        found = look("hub.example.org:7443")
    assert {name: found[name][0] for name in NETWORK} == dict.fromkeys(NETWORK, "PASS")
    assert len(asked) == 2
    assert all(head.startswith("CONNECT hub.example.org:7443 ") for head in asked)
    login = b64encode(b"user:secret").decode()
    assert all(f"Basic {login}" in head for head in asked)
    assert found["address"][1] == f"the proxy {proxy} takes connections"
    assert f"through the proxy {proxy}" in found["accepted"][1]
    assert "secret" not in str(found)


def test_a_proxy_that_refuses(look, monkeypatch):
    def serve(connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        connection.close()

    with listening(serve) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy}")
        found = look("hub.example.org:7443")
    assert found["address"][0] == "PASS"
    assert found["aggregator"][0] == "FAIL"
    assert "407" in found["aggregator"][1]
    assert look.status == 2


def test_nobody_there(look):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    found = look(address)
    assert found["address"][0] == "FAIL"
    assert f"{address} can't be reached" in found["address"][1]
    assert found["aggregator"] == ("SKIP", "it needs address, which didn't pass")
    assert look.status == 2


def test_a_name_that_nobody_knows(look):
    found = look("nowhere.invalid:7443")
    assert "the name of nowhere.invalid:7443 isn't known here" in found["address"][1]
    assert look.status == 2


def test_what_speaks_no_tls_and_what_says_nothing(look, monkeypatch):
    def rude(connection):
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with listening(rude) as address:
        assert "is a web page without TLS" in look(address)["aggregator"][1]
        assert look.status == 2
    monkeypatch.setattr(network, "SECONDS", 0.5)
    with listening(lambda _: time.sleep(30)) as address:
        assert "then says nothing" in look(address)["aggregator"][1]
        assert look.status == 2


def test_a_proxy_that_looks_inside_is_named(look, tmp_path):
    other = create_identity(
        tmp_path / "other", "hub", "aggregator", "x", now=datetime.now(UTC)
    )
    leaf = issue_leaf(other, (), datetime.now(UTC))
    with listening(tls_server(tmp_path, leaf)) as address:
        found = look(address)
    assert found["aggregator"][0] == "FAIL"
    assert "isn't the aggregator that the charter pins" in found["aggregator"][1]
    assert look.status == 2


@pytest.mark.parametrize(
    ("days", "result"), [(-200, "FAIL"), (2, "FAIL"), (-1, "PASS")]
)
def test_the_aggregators_certificate_and_the_clock(
    look, federation, tmp_path, days, result
):
    when = datetime.now(UTC) + timedelta(days=days)
    leaf = issue_leaf(hub_identity(federation), (), when)
    with listening(tls_server(tmp_path, leaf)) as address:
        found = look(address)
    assert found["aggregator"][0] == result
    if result == "FAIL":
        assert re.search(
            r"valid only from .* \(the clock here says", found["aggregator"][1]
        )
    # It asks for no client certificate, and answers no call.
    assert found["accepted"][0] == ("SKIP" if result == "FAIL" else "FAIL")
