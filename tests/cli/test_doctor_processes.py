"""`fedit doctor` for a job of several processes: cores, and the address where hosts meet."""

from __future__ import annotations

import socket
from contextlib import closing
from types import SimpleNamespace

import pytest

from fedit_secure.cli.diagnosis import machine
from fedit_secure.cli.diagnosis.lists import silo_checks
from fedit_secure.cli.diagnosis.model import Trial
from fedit_secure.config import Torchrun

FIXES = {check.name: check.fix for check in silo_checks(Trial())}


@pytest.fixture
def look(fedit, federation):
    path = federation / "clinic-a" / "silo.yaml"
    text = path.read_text()

    def run(torchrun, *options):
        path.write_text(f"{text}\ntorchrun: {torchrun}\n")
        command = ("doctor", path, "--quick", *(options or ("--offline",)))
        result = fedit(*command, "--format", "json")
        rows = {row["check"]: row for row in result.json["findings"]}
        return SimpleNamespace(status=result.status, **rows)

    return run


@pytest.fixture
def own_address():
    """One of this machine's that others may reach."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a datagram socket's: nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


def test_one_process_needs_no_look(look):
    report = look("{}")
    assert (report.processes["result"], report.endpoint["result"]) == ("PASS", "PASS")
    assert report.processes["found"] == "a job is one process"
    assert report.endpoint["found"] == "all processes of a job are on this machine"


@pytest.mark.parametrize(
    ("cores", "result"), [(4, "PASS"), (3, "WARN"), (None, "WARN")]
)
def test_processes_and_cores(look, monkeypatch, cores, result):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: cores)
    report = look("{processes: 4}")
    assert report.processes["result"] == result
    assert report.processes["found"].startswith("4 processes of a job, and ")
    assert report.processes["fix"] == (FIXES["processes"] if result == "WARN" else None)


def two_hosts(endpoint):
    return f"{{hosts: 2, endpoint: '{endpoint}'}}"


def test_an_endpoint_that_is_free_and_one_in_use(look, own_address):
    with closing(socket.create_server((own_address, 0))) as taken:
        port = taken.getsockname()[1]
        report = look(two_hosts(f"{own_address}:{port}"))
        assert report.endpoint["result"] == "WARN"
        assert "in use: by a round, or by another program" in report.endpoint["found"]
        assert report.endpoint["fix"] == FIXES["endpoint"]
    report = look(two_hosts(f"{own_address}:{port}"))
    assert report.endpoint["result"] == "PASS"
    assert report.endpoint["found"].endswith("is free")
    assert "on each of 2 hosts" in report.processes["found"]


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("127.0.0.1:29400", "is 127.0.0.1, where no other host reaches it"),
        ("[::1]:29400", "is ::1, where no other host reaches it"),
        ("0.0.0.0:29400", "is 0.0.0.0, where no other host reaches it"),
        ("192.0.2.7:29400", "can't be listened on"),  # another machine's
        ("nowhere.invalid:29400", "isn't known here"),
    ],
)
def test_an_endpoint_that_cannot_be(look, endpoint, sentence, monkeypatch):
    real = socket.getaddrinfo

    def known(host, *rest, **more):
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *rest, **more)

    monkeypatch.setattr("fedit_secure.cli.diagnosis.network._target", lambda _: None)
    monkeypatch.setattr(socket, "getaddrinfo", known)
    report = look(two_hosts(endpoint), "--quick")
    assert report.endpoint["result"] == "FAIL", report.endpoint
    assert sentence in report.endpoint["found"]
    assert report.endpoint["fix"] == FIXES["endpoint"]
    assert report.status == (2 if "invalid" in endpoint else 4)


def test_offline_no_name_is_looked_up(look):
    report = look(two_hosts("nowhere.invalid:29400"), "--offline")
    assert report.endpoint["result"] == "SKIP"
    assert report.status == 0


def test_an_endpoint_without_hosts_is_refused_before():
    with pytest.raises(ValueError, match="need an endpoint"):
        Torchrun(hosts=2)
