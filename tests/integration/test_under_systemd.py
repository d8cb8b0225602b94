"""The daemons as systemd runs them: `Type=notify` with a watchdog, over real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.processes import free_address
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning.job import DataSource

SECONDS = 120.0
WATCHDOG_SECONDS = 0.4
SILENCE_SECONDS = 2.0  # ten signs of life
# An aggregator without memory that it may both write and run, as MemoryDenyWriteExecute=
# has it (where the kernel can: prctl 65). Hangs in the thread of the event loop at SIGUSR2;
# other threads go on.
PROGRAM = """
import ctypes, signal, sys, time
if sys.argv[1] == "aggregator":
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
def hang(*_):
    print("hung", flush=True)
    time.sleep(600)
signal.signal(signal.SIGUSR2, hang)
from fedit_secure.cli.main import run
run()
"""


@pytest.fixture
def federation(
    plan: dict[str, object], records: dict[str, Path], tmp_path: Path
) -> LocalFederation:
    sources = {name: DataSource(path=str(path)) for name, path in records.items()}
    whole = run_plan({**plan, "aggregator": free_address()})
    return found_federation(tmp_path / "federation", whole, sources)


class Service:
    """A daemon and what it tells its manager."""

    def __init__(self, process: subprocess.Popen[str], ear: socket.socket) -> None:
        self.process = process
        self._ear = ear

    def heard(self, line: str) -> None:
        """Until it says this line."""
        while (said := self._ear.recv(4096).decode()) != line:
            assert said.startswith(("STATUS=", "WATCHDOG=1")), said

    def silent(self) -> bool:
        """Whether nothing more comes, once what was said before is read."""
        self._ear.setblocking(False)
        try:
            while self._ear.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._ear.settimeout(SILENCE_SECONDS)
        try:
            self._ear.recv(4096)
        except TimeoutError:
            return True
        return False


@contextmanager
def served(federation: LocalFederation, party: str, folder: Path) -> Iterator[Service]:
    """One party's daemon under a manager that reads along."""
    role = "silo" if party in federation.silos else "aggregator"
    config = federation.config_path(party)
    environment = {
        **os.environ,
        "NOTIFY_SOCKET": str(folder / party),
        "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(environment["NOTIFY_SOCKET"])
        ear.settimeout(SECONDS)
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, role, "serve", str(config)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield Service(process, ear)
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("role", ["aggregator", "silo"])
def test_a_daemon_is_ready_alive_and_stops(
    federation: LocalFederation, role: str, tmp_path: Path
) -> None:
    """A silo is ready without an aggregator: it dials until there is one."""
    party = "north" if role == "silo" else federation.aggregator.name
    with served(federation, party, tmp_path) as service:
        service.heard("READY=1")
        if role == "aggregator":
            host, _, port = federation.charter.aggregator.address.rpartition(":")
            socket.create_connection((host, int(port)), SECONDS).close()
        service.heard("WATCHDOG=1")
        service.process.send_signal(signal.SIGTERM)
        service.heard("STOPPING=1")
        assert service.process.wait(SECONDS) == 0


def test_a_loop_that_hangs_shows_no_sign_of_life(
    federation: LocalFederation, tmp_path: Path
) -> None:
    with served(federation, federation.aggregator.name, tmp_path) as service:
        service.heard("READY=1")
        for _ in range(3):
            service.heard("WATCHDOG=1")
        service.process.send_signal(signal.SIGUSR2)
        assert service.process.stdout is not None
        assert service.process.stdout.readline() == "hung\n"
        assert service.silent()


def test_a_phase_is_the_status(federation: LocalFederation, tmp_path: Path) -> None:
    """That of a silo which meets its aggregator: the first round is in it."""
    hub = federation.aggregator.name
    with served(federation, hub, tmp_path), served(federation, "north", tmp_path) as it:
        while not (said := it._ear.recv(4096).decode()).startswith("STATUS="):
            pass
        assert said.startswith("STATUS=round 1: ")
