"""A federation as its operators run it: the commands of docs/operator.md, then the daemons
as the commands start them, over mutual TLS on loopback. Only the tuning is drawn instead.

Everything happens in this process, so that a run of four silos takes a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedit_secure.aggregator import serve as hub_module
from fedit_secure.aggregator.events import Event
from fedit_secure.cli.main import main
from fedit_secure.config import load_aggregator_config, load_silo_config
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import FeditError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState, from_float32
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.silo import serve as silo_module
from fedit_secure.simulation.processes import free_address
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import TuneJob

RECORDS = 400
TARGET = "layers.3.mlp.down_proj"
LAYOUT = (
    (f"base_model.model.model.{TARGET}.lora_A.weight", (2, 352)),
    (f"base_model.model.model.{TARGET}.lora_B.weight", (128, 2)),
)
PLAN = """\
federation: north
run: {run}
aggregator: {address}
base_model: ../base
rounds: {rounds}
expires: {expires}
max_tokens: 64
lora: {{rank: 2, targets: [{target}]}}
tuning: {{learning_rate: 1e-3, local_steps: 8}}
dp: {{epsilon: 2, delta: 1e-6, expected_batch: 64}}
schedule: {{ready_slot_seconds: 0.01, phase_deadline_seconds: 30}}
"""

End = GridState | FeditError | SystemExit
Charge = Callable[[], Awaitable[None]]


class Operators:
    """All operators of one federation, below `root`; `hub` runs the aggregator.

    `tuned(silo)` is awaited when a silo has charged a round and tunes for it. `events` are
    what the aggregator's display was told. `keys` are options of both `init` commands.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch, self.address = root, monkeypatch, free_address()
        self.keys: tuple[object, ...] = ()
        self.events: list[Event] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_phase: Callable[[str, int, str], None] = lambda silo, round, phase: None
        self.tuned: Callable[[str], Awaitable[None]] = _at_once
        # What stands beside the claim takes seconds; its own tests compute it.
        monkeypatch.setattr("fedit_secure.cli.beside.SECONDS", 0.0)
        monkeypatch.setattr(silo_module, "tune_in_child", self._drawn)
        monkeypatch.setattr(hub_module, "GOODBYE_SECONDS", 0.5)
        shutil.copytree(base_model_path(), root / "base")

    # ------------------------------------------------------------------------- commands

    def fedit(self, *arguments: object) -> int:
        """One command line; its exit status."""
        return main([str(argument) for argument in arguments])

    def do(self, *arguments: object) -> None:
        """One command line that has to succeed."""
        assert self.fedit(*arguments) == 0, arguments

    def join(self, *names: str) -> None:
        """Silos that make their keys, and have records."""
        for name in names:
            home = self.root / name
            given = ("--folder", home, "--contact", "x", "--tell-records", RECORDS)
            self.do("silo", "init", name, *given, *self.keys)
            lines = (
                {"instruction": f"What is {n} at {name}?", "response": f"It is {n}."}
                for n in range(RECORDS)
            )
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (home / "records.jsonl").write_text(text)
            policy = (home / "policy.yaml").read_text()
            (home / "policy.yaml").write_text(
                policy.replace("epsilon: 8 ", "epsilon: 40 ")
            )

    def host(self) -> None:
        """The aggregator's operator makes its keys."""
        given = ("--folder", self.root / "hub", "--contact", "x")
        self.do("aggregator", "init", "hub", *given, *self.keys)

    def draft(
        self, epoch: int, names: Sequence[str], *, rounds: int = 2, more: str = ""
    ) -> int:
        """The coordinator drafts an epoch in a folder of its own; the exit status.

        From the second on it follows the one before, and goes on from where that ended.
        """
        folder = self.root / f"epoch-{epoch}"
        folder.mkdir()
        plan = PLAN.format(
            run=f"run-{epoch}",
            address=self.address,
            rounds=rounds,
            expires=(datetime.now(UTC) + timedelta(days=365)).date(),
            target=TARGET,
        )
        if epoch == 1:
            state = from_float32(LAYOUT, np.linspace(-1, 1, 960, dtype=np.float32))
            (folder / "given.bin").write_bytes(state.to_bytes())
            plan += "initial_state: given.bin\n"
        else:
            plan += f"predecessor: ../epoch-{epoch - 1}/charter.json\n"
        (folder / "plan.yaml").write_text(plan + more)
        cards = [self.newest(name) for name in (*names, "hub")]
        where = ("-o", folder / "charter.json")
        return self.fedit("charter", "draft", folder / "plan.yaml", *cards, *where)

    def newest(self, name: str) -> Path:
        """A party's identity folder: that of its next identity, if it has made one."""
        following = self.root / name / "identity.next"
        return following if following.is_dir() else self.root / name / "identity"

    def agree(self, epoch: int, names: Sequence[str]) -> Charter:
        """Every operator gets the drafted charter and approves; the hub gets it all."""
        source, hub = self.root / f"epoch-{epoch}", self.root / "hub"
        shutil.rmtree(hub / "approvals", ignore_errors=True)
        (hub / "approvals").mkdir()
        for name in ("charter.json", "initial-state.bin"):
            shutil.copy(source / name, hub / name)
        config = (hub / "aggregator.yaml").read_text().splitlines()
        config = [line for line in config if not line.startswith("listen:")]
        (hub / "aggregator.yaml").write_text(
            "\n".join([*config, f"listen: {self.address}\n"])
        )
        for name in names:
            shutil.copy(source / "charter.json", self.root / name / "charter.json")
            self.do("charter", "approve", self.config(name), "--yes")
            shutil.copy(self.root / name / f"{name}.approval", hub / "approvals")
        return Charter.load(source / "charter.json")

    def config(self, name: str) -> Path:
        """A party's silo.yaml or aggregator.yaml."""
        role = "aggregator" if name == "hub" else "silo"
        return self.root / name / f"{role}.yaml"

    # -------------------------------------------------------------------------- daemons

    async def hub(self) -> End:
        """The aggregator's daemon until its end."""

        def told(event: Event) -> None:
            self.events.append(event)
            self.on_event(event)

        config = load_aggregator_config(self.config("hub"))
        return await _end(hub_module.serve(config, told))

    async def silo(self, name: str) -> End:
        """A silo's daemon until its end."""
        config = load_silo_config(self.config(name))
        tell = lambda round, phase: self.on_phase(name, round, phase)  # noqa: E731
        return await _end(silo_module.serve(config, tell))

    async def run(self, names: Sequence[str]) -> GridState:
        """A whole run; every party ends in the same state."""
        async with asyncio.timeout(120):
            ends = await asyncio.gather(self.hub(), *map(self.silo, names))
        assert all(isinstance(end, GridState) for end in ends), ends
        assert len({end.digest() for end in ends}) == 1  # type: ignore[union-attr]
        return ends[0]  # type: ignore[return-value]

    async def _drawn(
        self,
        job: TuneJob,
        on_phase: object = None,
        *,
        before_sampling: Charge,
        keep: Callable[[NDArray[np.float32]], Awaitable[None]] | None = None,
        **_: object,
    ) -> NDArray[np.float32]:
        await before_sampling()
        silo = Path(job.data.path).parent.name
        await self.tuned(silo)
        said = silo.encode() + await asyncio.to_thread(Path(job.state_path).read_bytes)
        seed = int.from_bytes(hashlib.sha256(said).digest()[:8], "little")
        length = job.update_length + job.kept_length
        drawn = np.random.default_rng(seed).normal(0, 1e-3, length).astype(np.float32)
        update, kept = np.split(drawn, [job.update_length])
        if keep is not None:
            await keep(kept)
        return update

    # ------------------------------------------------------------------------ what is left

    def ledger(self, name: str, population: str = "") -> Ledger:
        """A silo's ledger as its journal has it."""
        path = self.root / name / "state" / "journal.sqlite"
        with Journal.open(path, read_only=True) as journal:
            entries = journal.ledger(population or name)
        return Ledger.from_entries(population or name, entries)

    def run_folder(self, charter: Charter) -> Path:
        """Where the aggregator keeps a charter's run."""
        return self.root / "hub" / "state" / charter.digest().hex()[:16]

    def audit(self, epoch: int) -> None:
        """Export the hub's bundle of the charter it has now, and verify it."""
        bundle = self.root / f"epoch-{epoch}" / "bundle.zip"
        self.do("audit", "export", self.config("hub"), "-o", bundle)
        self.do("audit", "verify", bundle, "--jobs", 1)


async def _at_once(silo: str) -> None:
    """It takes no time."""


async def _end(serving: Awaitable[Any]) -> End:
    try:
        return await serving  # type: ignore[no-any-return]
    except (FeditError, SystemExit) as error:
        return error
