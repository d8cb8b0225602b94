"""What systemd is told, without systemd: a socket in its place."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from fedit_secure.cli.service_manager import ServiceManager
from fedit_secure.errors import ConfigError

SECONDS = 60.0


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The manager's end, which the environment names."""
    name = (
        str(tmp_path / "notify") if request.param == "path" else f"@fedit{os.getpid()}"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name.replace("@", "\0", 1))
        ear.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        yield ear


def heard(ear: socket.socket) -> str:
    return ear.recv(4096).decode()


async def test_ready_status_signs_of_life_and_one_end(manager: socket.socket) -> None:
    told = ServiceManager.of_environment()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & os.environ.keys()

    async def daemon() -> str:
        told.stage("ready")
        told.status("round 1: two\nlines")
        alive = 0
        while alive < 3:
            line = await asyncio.to_thread(heard, manager)
            alive += line == "WATCHDOG=1"
            lines.append(line)
        told.stage("stopping")
        return "its end"

    lines: list[str] = []
    assert await told.watch(daemon()) == "its end"
    while lines[-1] != "STOPPING=1":
        lines.append(heard(manager))
    assert [line for line in lines if line != "WATCHDOG=1"] == [
        "READY=1",
        "STATUS=round 1: two lines",
        "STOPPING=1",
    ]


async def test_a_daemon_that_fails_is_stopping_too(manager: socket.socket) -> None:
    async def daemon() -> NoReturn:
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        await ServiceManager.of_environment().watch(daemon())
    assert heard(manager) == "STOPPING=1"


def test_the_watchdog_of_another_process_gets_no_sign(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")

    async def daemon() -> None:
        await asyncio.sleep(0.1)

    asyncio.run(ServiceManager.of_environment().watch(daemon()))
    assert heard(manager) == "STOPPING=1"


def test_a_manager_that_is_gone_ends_nothing(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    told = ServiceManager.of_environment()
    manager.close()
    with caplog.at_level(logging.WARNING):
        told.stage("ready")
    assert "wasn't told READY" in caplog.text


def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delattr(socket, "socket")
    told = ServiceManager.of_environment()
    told.stage("ready")
    told.status("round 1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NOTIFY_SOCKET", "vsock:2:1234"), ("WATCHDOG_USEC", "soon")],
)
def test_what_systemd_never_sets_is_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        ServiceManager.of_environment()
