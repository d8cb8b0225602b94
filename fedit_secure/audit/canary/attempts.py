"""The silo's worker: what it does before its charge, after a refusal, and its keys.

One attempt runs in a process of its own, as a silo runs it, and is charged after a while.
Another runs the same job in this process, and shows whether it draws another key. A third
is refused its charge. `tune` is the silo's `tune_in_child`, which an audit may not
import: it is handed in.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.canary import detections as d
from fedit_secure.audit.canary.detections import Detection
from fedit_secure.audit.canary.trials import STEPS
from fedit_secure.errors import BudgetExhausted, FeditError
from fedit_secure.privacy.ledger import Intent, Ledger, Opened
from fedit_secure.privacy.mechanisms import mechanisms_of
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning import worker as worker_module
from fedit_secure.tuning.job import (
    DataSource,
    LoraConfig,
    OptimizerConfig,
    Progress,
    TuneJob,
)
from fedit_secure.tuning.records import Record

WATCHED = ("-m", "fedit_secure.audit.canary.watched_worker")
IDLE = ("-m", "fedit_secure.audit.canary.idle_worker")
HOLD_SECONDS = 2.0
"""How long a charge is withheld from a worker that is ready: whoever samples without it
has begun by then."""

_SIGMA = 50.0  # so loud that two updates have nothing in common but their noise
_POPULATION = "canary audit"
_CHARTER = "0" * 64
_EXPECTED_BATCH = 16

Tune = Callable[..., Awaitable[npt.NDArray[np.float32]]]
"""`silo.tuner.tune_in_child`."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """What the attempts showed.

    Attributes:
        updates: float64 (2, d): of the two that weren't refused.
        counts: steps told by the worker in its process, and charged to the journal.
        intent: that detector's finding.
    """

    updates: npt.NDArray[np.float64]
    counts: dict[str, int]
    intent: Detection


async def watch_worker(
    tune: Tune,
    model: Path,
    records: Sequence[Record],
    folder: Path,
    worker: Sequence[str] = WATCHED,
) -> Attempts:
    """Run the three attempts.

    Args:
        tune: see the module. Called on this event loop, which must be the main thread's.
        model: the folder of a small base model.
        records: public or synthetic.
        folder: empty; the job's files and journals are written into it.
        worker: what Python runs in the child; it takes a path to write its note to.

    Raises:
        FeditError: the worker can't tune the job at all, or the disk is full.
    """
    plan, job = await asyncio.to_thread(_job, model, records, folder)
    charge = _Charge(folder / "charged", plan, HOLD_SECONDS)
    update, held, again = await asyncio.gather(
        tune(
            job,
            charge.told.append,
            before_sampling=charge,
            worker=(*worker, str(charge.note)),
        ),
        _refusal_holds(tune, job, folder / "refused"),
        asyncio.to_thread(_tuned_here, job),
    )
    entry = charge.entry()
    told = sum(at.phase == "tuning" for at in charge.told)
    found = d.intent(
        charges=charge.asked,
        sampled_after=charge.seconds_to_sampling(),
        on_disk=entry is not None,
        refusal_held=held,
    )
    return Attempts(
        np.array([update, again], np.float64),
        {"told_by_the_worker": told, "in_its_charge": _steps(entry)},
        found,
    )


async def _refusal_holds(tune: Tune, job: TuneJob, folder: Path) -> bool:
    """Whether the refusal comes through, and no word to sample before it."""
    charge = _Charge(folder, None, 0.0)
    try:
        await tune(job, before_sampling=charge, worker=(*IDLE, str(charge.note)))
    except _Refused:
        # Its child is ended at once: the note may be there without its time.
        return not charge.note.exists()
    except FeditError:  # it went on: the worker without work ends with an error
        return False
    return False


def _tuned_here(job: TuneJob) -> npt.NDArray[np.float32]:
    may = threading.Event()
    may.set()
    return worker_module.tune(job, lambda **_: None, may).update


class _Refused(BudgetExhausted):
    pass


class _Charge:
    """One attempt's `before_sampling`: it writes an intent into a journal of its own.

    Without a plan it refuses. It waits for `hold` seconds first.
    """

    def __init__(self, folder: Path, plan: DpPlan | None, hold: float) -> None:
        folder.mkdir()
        self.note = folder / "sampled"
        self.told: list[Progress] = []
        self.asked = 0
        self._journal = folder / "journal.sqlite"
        self._plan, self._hold = plan, hold
        self._durable_at: int | None = None

    async def __call__(self) -> None:
        self.asked += 1
        # A worker that may not wait is given the time to be seen.
        await asyncio.sleep(self._hold)
        if self._plan is None:
            raise _Refused("the canary audit refuses this charge")
        opened = Ledger.open(_opening())
        after = opened.reserve(
            self._plan,
            run="canary audit",
            round=1,
            charter=_CHARTER,
            state_digest=_CHARTER,
            weight=1,
        )
        with Journal.open(self._journal, create=True) as journal:
            journal.commit(
                population=_POPULATION, expected_sequence=0, entries=after.entries
            )
        self._durable_at = time.monotonic_ns()

    def entry(self) -> Intent | None:
        """The charge as the journal has it, opened anew."""
        if not self._journal.exists():
            return None
        with Journal.open(self._journal, read_only=True) as journal:
            entries = journal.ledger(_POPULATION)
        intents = Ledger.from_entries(_POPULATION, entries).intents()
        return intents[0] if len(intents) == 1 else None

    def sampled_at(self) -> int | None:
        """When the worker began to sample, in monotonic nanoseconds."""
        if not self.note.exists():
            return None
        return int(self.note.read_text(encoding="ascii"))

    def seconds_to_sampling(self) -> float | None:
        """From the charge being durable to the first sampling; below 0, before it.

        None if one of the two never was.
        """
        sampled = self.sampled_at()
        if sampled is None or self._durable_at is None:
            return None
        return (sampled - self._durable_at) / 1e9


def _steps(entry: Intent | None) -> int:
    mechanisms = mechanisms_of(entry.event()) if entry is not None else None
    return sum(mechanism.steps for mechanism in mechanisms or ())


def _opening() -> Opened:
    return Opened(
        silo=_POPULATION,
        identity=_CHARTER,
        population=_POPULATION,
        adjacency="zero-out",
        delta=1e-5,
        cap_epsilon=None,
        filter_order=32.0,
        fingerprints=_CHARTER,
        software="canary audit",
    )


def _job(
    model: Path, records: Sequence[Record], folder: Path
) -> tuple[DpPlan, TuneJob]:
    from safetensors.numpy import save_file

    from fedit_secure.tuning.adapter import initial_adapter
    from fedit_secure.tuning.base_model import load_base_model

    data, state = folder / "records.jsonl", folder / "state.safetensors"
    rows = [
        {"instruction": r.instruction, "input": r.input, "response": r.response}
        for r in records
    ]
    lines = (json.dumps(row) + "\n" for row in rows)
    data.write_text("".join(lines), encoding="utf-8")
    lora = LoraConfig(rank=1)
    layout, vector = initial_adapter(load_base_model(model), lora, seed=0)
    save_file({"adapter": vector}, state)
    plan = DpPlan(
        sample_rate=min(1.0, _EXPECTED_BATCH / len(records)),
        noise_multiplier=_SIGMA,
        clip=1.0,
        expected_batch=_EXPECTED_BATCH,
        local_steps=STEPS,
        rounds=1,
        spare_charges=0,
        delta=1e-5,
    )
    job = TuneJob(
        model=str(model),
        data=DataSource(path=str(data)),
        max_tokens=32,
        lora=lora,
        # So slow that the gradient of one step isn't seen in the next.
        optimizer=OptimizerConfig(name="sgd", learning_rate=2.0**-14),
        plan=plan.as_dict(),
        state_path=str(state),
        layout=layout,
        token_budget=256,
    )
    return plan, job
