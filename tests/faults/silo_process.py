"""A silo's whole process for fault tests: real books, a real daemon, a drawn update.

`python -m faults.silo_process ROOT...` imports everything and does the accounting of the
federations under these folders once, and then forks a process for each line on its
standard input. A fork has opened nothing yet: to the disk it is as fresh as any.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import selectors
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faults.socket_link import SiloSocket
from faults.syscalls import Fate, Kernel
from numpy.typing import NDArray

from fedit_secure.errors import ConnectError, FeditError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import Identity, load_identity
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import messages as m
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.turns import in_turn
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.wire.limits import Limits

POLICY = Policy(epsilon=8.0, delta=1e-5, tell_record_count=True)
_TRIES = 3


@dataclass(frozen=True)
class Life:
    """One process: of which federation and silo, from which folder, and its fate.

    `number` tells its draws from those of other lives. It appends a line to `marks` when
    it samples, and writes how it ended to `report`, neither of which is below `home`.
    """

    root: str
    name: str
    home: str
    port: int
    number: int
    marks: str
    report: str
    record: str
    fate: Fate


@dataclass(frozen=True)
class Report:
    """How a process ended that wasn't killed."""

    status: int
    error: str = ""
    state: str = ""
    points: int = 0
    failed: int = 0


def drawn(silo: int, round: int, life: int, length: int) -> NDArray[np.float32]:
    """What a life's tuning of a round gives: anybody can draw it again."""
    noise = np.random.default_rng([silo, round, life])
    return noise.normal(0, 0.02, length).astype(np.float32)


class _WatchedBooks(Books):
    """Tells the kernel, by name, what step it is about to commit.

    In its turn, for which receipts wait too: else a commit that is under way in another
    thread would be taken for the step's.
    """

    kernel: Kernel
    fate: Fate

    def _step(self, name: str) -> None:
        self.kernel.mark(f"step {name}")
        if self.fate.step == name:
            self.kernel.arm(self.fate)

    @in_turn
    def admit(self, fingerprints: bytes) -> None:
        self._step("admit")
        super().admit(fingerprints)

    @in_turn
    def reserve(self, round: int) -> None:
        self._step("reserve")
        super().reserve(round)

    @in_turn
    def commit_update(self, round: int, update: NDArray[np.float32]) -> None:
        self._step("update")
        super().commit_update(round, update)

    @in_turn
    def burn(self, fuse: m.Fuse) -> None:
        self._step(fuse.kind)
        super().burn(fuse)

    @in_turn
    def renewed(self, fuse: m.Fuse, proof: m.VoidCertificate) -> None:
        self._step("renew")
        super().renewed(fuse, proof)

    @in_turn
    def close_round(
        self, proof: m.RoundCertificate, published: m.PublishedSum | None
    ) -> None:
        self._step("close")
        super().close_round(proof, published)

    @in_turn
    def countersigned(self, head: m.LedgerHead, signature: bytes) -> None:
        super().countersigned(head, signature)


async def _daemon(
    life: Life, charter: Charter, identity: Identity, kernel: Kernel
) -> GridState:
    state, limits = Path(life.home) / "state", Limits.of(charter.secagg_params())
    states = StateStore(state / "states")
    marks = os.open(life.marks, os.O_WRONLY | os.O_APPEND)
    index = charter.silo_index(life.name)

    async def dial() -> SiloSocket:
        for _ in range(_TRIES):
            try:
                ends = await asyncio.open_connection("127.0.0.1", life.port)
            except OSError:
                await asyncio.sleep(0.2)
            else:
                return SiloSocket(*ends, limits)
        raise ConnectError("nobody is there")

    async def tune(round: int, state: GridState, charge: Charge) -> NDArray[np.float32]:
        await charge()
        os.write(marks, f"{round} {life.number}\n".encode())
        kernel.mark(f"sampled {round}")
        return drawn(index, round, life.number, charter.secagg_params().length)

    with open_journal(state) as journal:
        key = identity.signing
        books = _WatchedBooks(journal, states, charter, life.name, key, POLICY)
        books.kernel, books.fate = kernel, life.fate
        books.admit(bytes(32))
        daemon = SiloDaemon(charter, life.name, key, books, tune)
        return await daemon.run(dial)


def _live(life: Life, charter: Charter, identity: Identity) -> int:
    kernel = Kernel()
    record = os.open(life.record, os.O_WRONLY | os.O_APPEND)
    if life.fate.file_bytes is not None:
        record = -1  # it would soon be too long itself
        limit = life.fate.file_bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    kernel.begin(Path(life.home), record, life.fate)
    try:
        state = asyncio.run(_daemon(life, charter, identity, kernel))
    except FeditError as error:
        end = Report(error.exit_status, str(error))
    except Exception:  # noqa: BLE001 - as the command line does: a bug has a status too
        end = Report(5, traceback.format_exc())
    else:
        end = Report(0, state=state.digest().hex())
    lengths = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (lengths, lengths))
    end = Report(end.status, end.error, end.state, kernel.points, kernel.failed)
    Path(life.report).write_text(json.dumps(asdict(end)))
    return end.status


def _read(line: bytes) -> Life:
    fields: dict[str, Any] = json.loads(line)
    return Life(**{**fields, "fate": Fate(**fields["fate"])})


def _answer(number: int, status: int) -> None:
    sys.stdout.write(f"{number} {status}\n")
    sys.stdout.flush()


class _Parent:
    """See the module. It says `number status` when a fork has ended."""

    def __init__(self, roots: list[str]) -> None:
        self._charters = {root: Charter.load(Path(root) / "charter") for root in roots}
        for charter in self._charters.values():
            charter.plan_for(charter.roster[0].name).epsilons()
        self._pending = b""
        self._watched = selectors.DefaultSelector()
        self._forks = 0

    def run(self) -> None:
        self._watched.register(sys.stdin.fileno(), selectors.EVENT_READ)
        _answer(-1, 0)
        while True:
            for key, _ in self._watched.select():
                if key.data is not None:
                    self._ended(key.fd, *key.data)
                elif not self._take():
                    return

    def _take(self) -> bool:
        data = os.read(sys.stdin.fileno(), 1 << 16)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._fork(_read(line))
        return bool(data)

    def _fork(self, life: Life) -> None:
        charter = self._charters[life.root]
        identity = load_identity(Path(life.root) / life.name / "identity")
        pid = os.fork()
        if pid == 0:
            status = 5
            try:
                status = _live(life, charter, identity)
            finally:
                os._exit(status)
        descriptor = os.pidfd_open(pid)
        self._watched.register(descriptor, selectors.EVENT_READ, (pid, self._forks))
        self._forks += 1

    def _ended(self, descriptor: int, pid: int, number: int) -> None:
        _, status = os.waitpid(pid, 0)
        self._watched.unregister(descriptor)
        os.close(descriptor)
        _answer(number, os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _Parent(sys.argv[1:]).run()
