"""A federation of real daemons in processes of their own, which may be killed and cut off.

`fedit aggregator serve`, and `fedit silo serve` with a drawn update (`marked_silo.py`),
over gRPC with mutual TLS. Each silo's line is a `Relay`. A process that ends is kept in
`ends`; one that was killed is started again by whoever killed it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from faults.marked_silo import drawn_by
from faults.relay import Relay
from streams import step_of

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.update import GridState, apply_update, to_float32
from fedit_secure.privacy.ledger import Intent, Ledger
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.processes import free_address, last_words
from fedit_secure.simulation.run import run_plan
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource

HUB = "aggregator"
TESTS = Path(__file__).parents[1]
PROGRAMS = {
    HUB: ("-m", "fedit_secure.cli.main"),
    "silo": (str(TESTS / "faults" / "marked_silo.py"),),
}
SCHEDULE = {
    "tune_deadline_seconds": 120,
    "phase_deadline_seconds": 8,
    "silo_deadline_seconds": 16,
    "ready_slot_seconds": 0.01,
}


@dataclass
class RealFederation:
    """See the module; `async with` starts all daemons and ends what is left of them."""

    folder: Path
    rounds: int
    silos: int = 5
    schedule: dict[str, float] = field(default_factory=dict)
    dp: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = [f"silo-{n}" for n in range(self.silos)]
        records = self.folder / "records.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"instruction": "Say yes.", "response": "Yes."})
        records.write_text(f"{line}\n" * 400, encoding="utf-8")
        private = {"epsilon": 8.0, "delta": 1e-5, "clip": 1.0, "expected_batch": 8}
        private |= {"spare_charges": 40}
        plan = {
            "federation": "soak",
            "run": "soak",
            "aggregator": free_address(),
            "base_model": str(base_model_path()),
            "max_tokens": 64,
            "lora": {"rank": 1, "alpha": 1},
            "tuning": {"learning_rate": 1e-3, "local_steps": 1},
            "rounds": self.rounds,
            "dp": {**private, **self.dp},
            "secagg": {"bound": 0.01, "ring_bits": 24},
            "schedule": {**SCHEDULE, **self.schedule},
            "seed": 1,
        }
        whole = run_plan(plan)
        self.federation = found_federation(
            self.folder / "federation",
            whole,
            dict.fromkeys(self.names, DataSource(path=str(records))),
            policy=Policy(
                epsilon=9.0, delta=1e-5, max_lost_charges=1000, tell_record_count=True
            ),
        )
        self.charter = self.federation.charter
        port = int(whole.aggregator.rsplit(":", 1)[1])
        self.relays = {name: Relay(port) for name in self.names}
        self.running: dict[str, asyncio.subprocess.Process] = {}
        self.ends: dict[str, list[int]] = defaultdict(list)
        self.events: Counter[str] = Counter()
        self.certified: set[int] = set()
        self.skipped: set[int] = set()
        self.programs: dict[str, tuple[str, ...]] = {}
        """What a party runs instead of its role's program, from its next start on."""
        self.environments: dict[str, dict[str, str]] = {}
        self.moved = time.monotonic()
        """When the aggregator last ended a round, or a process was last started."""
        self.on_event: Callable[[str, dict[str, Any]], None] = lambda party, event: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._entries: dict[str, tuple[bytes, ...]] = {}

    # ----------------------------------------------------------------------- processes

    async def __aenter__(self) -> RealFederation:
        for name, relay in self.relays.items():
            await relay.open()
            path = self.federation.config_path(name)
            config = yaml.safe_load(path.read_text())
            config["aggregator"] = {"address": f"127.0.0.1:{relay.port}"}
            path.write_text(yaml.safe_dump(config))
        for party in (HUB, *self.names):
            await self.start(party)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.running.values():
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for relay in self.relays.values():
            await relay.close()

    async def start(self, party: str) -> None:
        """One daemon (again)."""
        role = HUB if party == HUB else "silo"
        config = str(self.federation.config_path(party))
        program = self.programs.get(party, PROGRAMS[role])
        command = [sys.executable, *program, role, "serve", config]
        one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        ours = {"SOAK_MARKS": str(self.marks(party)), "PYTHONPATH": path}
        environment = {**os.environ, **one_core, **ours}
        environment |= self.environments.get(party, {})
        with self.log(party).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--format",
                "json",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        self.running[party] = process
        self.moved = time.monotonic()
        task = asyncio.create_task(self._follow(party, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, party: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                event = json.loads(line)
                phase = event["phase"]
            except (ValueError, KeyError, TypeError):
                continue
            if party == HUB and not event.get("silo"):
                self.events[phase] += 1
                kept = {"certified": self.certified, "skipped": self.skipped}.get(phase)
                if kept is not None:
                    kept.add(event["round"])
                    self.moved = time.monotonic()
            self.on_event(party, event)
        self.ends[party].append(await process.wait())

    async def kill(self, party: str, number: int = signal.SIGKILL) -> None:
        """End one daemon, if it lives, and wait until it has."""
        process = self.running[party]
        if process.returncode is None:
            process.send_signal(number)
        await process.wait()
        if party != HUB:
            self.look(party)

    async def ended(self, seconds: float) -> None:
        """Every process has. Where the run was over before a silo was back, its aggregator
        is started again, as an operator would: the run is there for those that were away.
        """
        silos = [party for party in self.running if party != HUB]
        async with asyncio.timeout(seconds):
            while not all(map(self.stopped, silos)):
                await asyncio.sleep(3.0)
                left = not all(map(self.stopped, silos))
                if left and self.stopped(HUB) and self.ends[HUB][-1] == 0:
                    await self.start(HUB)
            await self.running[HUB].wait()

    def stopped(self, party: str) -> bool:
        """Whether its process has ended."""
        return self.running[party].returncode is not None

    # ------------------------------------------------------------------------ its files

    def home(self, party: str) -> Path:
        return self.federation.folder / party

    def log(self, party: str) -> Path:
        return self.home(party) / "daemon.log"

    def words(self, party: str) -> str:
        """The last line of its log."""
        return last_words(self.log(party))

    def marks(self, party: str) -> Path:
        return self.folder / f"{party}.marks"

    def sampled(self, name: str) -> list[tuple[int, int]]:
        """(round, seed) of each time that a silo began to sample."""
        path = self.marks(name)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(a), int(b)) for a, b in (line.split() for line in lines)]

    def run_folder(self) -> RunFolder:
        state = self.home(HUB) / "state" / self.charter.digest().hex()[:16]
        return RunFolder(state, self.charter, self.federation.initial)

    def ledger(self, name: str) -> tuple[bytes, ...]:
        """A silo's entries as they lie there, looked at in a copy."""
        state, copy = self.home(name) / "state", self.folder / f"{name}.copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in state.glob("journal.sqlite*"):
            if not path.name.endswith(".lock"):
                shutil.copy(path, copy)
        if not (copy / "journal.sqlite").exists():
            return ()
        with Journal.open(copy / "journal.sqlite") as journal:
            return journal.ledger(name)

    # ------------------------------------------------------------------------ its books

    def look(self, name: str) -> None:
        """Right after a death, before anybody repairs anything: no entry is gone that was
        there, and every tuning that had begun is charged."""
        before, now = self._entries.get(name, ()), self.ledger(name)
        assert now[: len(before)] == before, f"{name} lost entries of its ledger"
        self._entries[name] = now
        assert not self.below(name), f"{name} has sampled what it wasn't charged for"

    def charges(self, name: str) -> list[int]:
        """The round of each charge in a silo's ledger."""
        entries = self.ledger(name)
        events = Ledger.from_entries(name, entries).events if entries else ()
        return [event.round for event in events if isinstance(event, Intent)]

    def below(self, name: str) -> int:
        """How many tunings of a silo aren't charged."""
        charged = Counter(self.charges(name))
        return (Counter(round for round, _ in self.sampled(name)) - charged).total()

    def lost_bytes(self) -> int:
        """Of ledger entries that were there once, or that the aggregator holds, and aren't
        in the silo's ledger."""
        lost = 0
        copies = self.run_folder().folder / "ledgers"
        for name in self.names:
            now, copy = self.ledger(name), copies / f"{name}.jsonl"
            held = tuple(copy.read_bytes().splitlines()) if copy.exists() else ()
            for known in (self._entries.get(name, ()), held):
                if now[: len(known)] != known:
                    lost += sum(len(entry) for entry in set(known) - set(now)) or 1
        return lost

    def recomputed(self) -> GridState:
        """The state that follows from the published sums alone; each of these is what its
        contributors drew, up to the rounding."""
        params, folder = self.charter.secagg_params(), self.run_folder()
        state = self.federation.initial
        done = folder.progress.certified
        draws = {name: dict(self.sampled(name)) for name in self.names}
        for round in range(1, done + 1):
            certificate = folder.certificate(round)
            assert certificate is not None
            if not certificate.confirmations[0].release_digest:
                continue  # skipped: the state is as it was
            published = folder.published(round)
            assert published is not None
            before = to_float32(state)
            state = apply_update(state, published.total, params, published.contributors)
            names = [self.charter.roster[silo].name for silo in published.contributors]
            mean = np.mean(
                [drawn_by(draws[name][round], params.length) for name in names], axis=0
            )
            error = np.abs(to_float32(state) - before - mean).max()
            assert error <= step_of(params) + 2.0**-20, f"round {round}: {error}"
        return state

    def check(self) -> None:
        """All of it, at the end."""
        state = self.recomputed()
        assert self.run_folder().state().digest() == state.digest()
        assert self.lost_bytes() == 0
        for name in self.names:
            assert not self.below(name)
            if self.ends[name] and self.ends[name][-1] == 0:
                kept = self.home(name) / "state" / "states"
                assert (kept / f"{state.digest().hex()}.state").exists(), name
