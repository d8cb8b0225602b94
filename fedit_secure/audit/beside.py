"""Rounds read in processes beside this one: most of a verification is signatures.

A child is this package's own code on the same bundle, and answers in JSON lines. Threads
wouldn't do: a signature is checked under the interpreter's lock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedit_secure.audit.bundle import Bundle, charter_of
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.rounds import Ended, Terms, read_rounds
from fedit_secure.errors import ConfigError

_LEDGERS = 0.28
"""The share that ledgers and accountants take of all; rounds, with their signatures, the
rest."""


def shares(rounds: Sequence[int], jobs: int) -> list[Sequence[int]]:
    """Stretches of rounds for this process, which has the ledgers too, and its children."""
    mine = max(0.0, 1 / jobs - _LEDGERS) / (1 - _LEDGERS)
    first = round(mine * len(rounds)) if jobs > 1 else len(rounds)
    left, others = len(rounds) - first, range(1, jobs)
    cuts = [0, first, *(first + left * child // (jobs - 1) for child in others)]
    return [rounds[a:b] for a, b in pairwise(cuts)]


@contextmanager
def children(path: Path, parts: Sequence[Sequence[int]]) -> Iterator[list[Child]]:
    """One child for each stretch of rounds; they end with the block."""
    started: list[Child] = []
    try:
        started.extend(Child(path, part) for part in parts if part)
        yield started
    finally:
        for child in started:
            child.stop()


class Child:
    """A process that reads a stretch of rounds."""

    def __init__(self, path: Path, rounds: Sequence[int]) -> None:
        command = [sys.executable, "-m", __name__, str(path.absolute())]
        command += [str(rounds[0]), str(rounds[-1])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._rounds = rounds
        self._lines: list[bytes] = []
        # A pipe holds a few rounds only: unread, it would make the child wait for us.
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(self._process.stdout)

    def result(self) -> list[Ended]:
        """What it read; raises ConfigError if it couldn't."""
        self._reader.join()
        if self._process.wait() or len(self._lines) != len(self._rounds):
            first, last = self._rounds[0], self._rounds[-1]
            raise ConfigError(f"rounds {first} to {last} of the bundle can't be read")
        return [_ended(json.loads(line)) for line in self._lines]

    def stop(self) -> None:
        """End it, if it hasn't."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _line(ended: Ended) -> dict[str, Any]:
    return {
        "round": ended.round,
        "state": ended.state.hex(),
        "release": ended.release.hex(),
        "signers": ended.signers,
        "ctx": ended.ctx.hex(),
        "contributors": ended.contributors,
        "heads": [(silo, count, hash.hex()) for silo, count, hash in ended.heads],
        "populations": ended.populations,
        "total": ended.total.hex(),
        "last": ended.last,
        "faults": [(fault.code, fault.where, fault.what) for fault in ended.faults],
    }


def _ended(line: dict[str, Any]) -> Ended:
    return Ended(
        round=line["round"],
        state=bytes.fromhex(line["state"]),
        release=bytes.fromhex(line["release"]),
        signers=line["signers"],
        ctx=bytes.fromhex(line["ctx"]),
        contributors=tuple(line["contributors"]),
        heads=tuple((s, count, bytes.fromhex(h)) for s, count, h in line["heads"]),
        populations=tuple(line["populations"]),
        total=bytes.fromhex(line["total"]),
        last=line["last"],
        faults=[Fault(*fault) for fault in line["faults"]],
    )


def main(arguments: Sequence[str]) -> None:
    """Read the rounds from one to another of a bundle, and write a line for each."""
    path, first, last = arguments
    with Bundle(Path(path)) as bundle:
        terms = Terms.of(charter_of(bundle))
        for ended in read_rounds(bundle, terms, range(int(first), int(last) + 1)):
            sys.stdout.write(json.dumps(_line(ended)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
