"""Machines on one switch: network namespaces with addresses and host names of their own.

Each is a namespace with a folder; a process in it reaches the others by the cable alone.
Needs root and iproute2, and touches nothing outside of the namespaces that it makes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IN_NAMESPACE = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


@dataclass(frozen=True)
class Machine:
    """`folder` is where its commands run; `hosts` is what it knows of names."""

    name: str
    namespace: str
    address: str
    folder: Path
    hosts: Path

    def command(self, words: Sequence[str]) -> list[str]:
        """What starts these words inside."""
        within = ["unshare", "--mount", "sh", "-c", IN_NAMESPACE, "-", str(self.hosts)]
        return ["ip", "netns", "exec", self.namespace, *within, *words]

    def run(self, words: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(words),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )


def refusal() -> str | None:
    """Why there can be no machines here; None if there can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs iproute2 and util-linux"
    name = f"fedit-probe-{os.getpid()}"
    tried = subprocess.run(
        ["ip", "netns", "add", name], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"may make no network namespace: {tried.stderr.strip()}"
    try:
        return _refused_within(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def _refused_within(name: str) -> str | None:
    tries = (
        ["ip", "-n", name, "link", "add", "probe", "type", "bridge"],
        ["ip", "netns", "exec", name, "unshare", "--mount", "true"],
    )
    for words in tries:
        tried = subprocess.run(words, capture_output=True, text=True, check=False)
        if tried.returncode:
            return f"{' '.join(words[:1])} failed: {tried.stderr.strip()}"
    return None


@contextmanager
def machines(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Machine]]:
    """10.77.0.1 is the first, and so on; each is known to all as `<name>.example` and as
    any name that ends in it."""
    tag = f"f{os.getpid() % 100_000}"
    switch = f"fedit-{tag}-switch"
    addresses = {name: f"10.77.0.{i + 1}" for i, name in enumerate(names)}
    hosts = folder / "hosts"
    lines = [f"{addr} {n}.example hub.{n}.example" for n, addr in addresses.items()]
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
    with ExitStack() as undo:
        _namespace(switch, undo)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        found = {}
        for number, (name, address) in enumerate(addresses.items()):
            space, port = f"fedit-{tag}-{name}", f"port{number}"
            _namespace(space, undo)
            _ip("-n", space, "link", "add", "eth0", "type", "veth",
                "peer", "name", port, "netns", switch)  # fmt: skip
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
            own = folder / name
            own.mkdir()
            found[name] = Machine(name, space, address, own, hosts)
        yield found


def _namespace(name: str, undo: ExitStack) -> None:
    _ip("netns", "add", name)
    undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
