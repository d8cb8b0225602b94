"""`simulate`: the same federation in one process, over an in-memory link.

Protocol, wire codec, ledgers, tuning and update rule are the very ones that the daemons
run; only the network, and the process around each tuning job, are left out.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.config import PlanFile
from fedit_secure.errors import ConfigError, ConnectError, FeditError
from fedit_secure.federation.aggregation import factors, kept_factors
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.evaluation import Reading
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.silo.jobs import lora_of, optimizer_of
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.personal import Personal
from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.tuning.adapter import attach_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.examples import Example, load_template, make_examples
from fedit_secure.tuning.held_out import HeldOut, evaluate, set_apart
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET, DataSource
from fedit_secure.tuning.kept_part import Tuned, divide
from fedit_secure.tuning.local_round import ReadyRound, prepare_round, run_round
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.units import planned_units
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import Published, SiloLink, memory_pair


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a run left behind.

    `adapter`: float32 of shape (m,), ordered as `charter.adapter.layout`. `epsilons`:
    per silo, what its ledger says was spent. `folder`: the run folder, with `adapter/`
    in PEFT layout. `readings`: by round, what its sum says of the held-out records under
    the state that it began with; none where the plan evaluates nothing. `personal`: with
    aggregation "fedsa", per silo the folder of its own adapter in PEFT layout, which is the
    global A and the silo's own B; empty else.
    """

    charter: Charter
    state: GridState
    adapter: NDArray[np.float32]
    epsilons: Mapping[str, float]
    folder: Path
    readings: Mapping[int, Reading]
    personal: Mapping[str, Path] = field(default_factory=dict)


class Tuner:
    """Tunes for all silos of one federation in this process, one job at a time."""

    def __init__(
        self,
        federation: LocalFederation,
        *,
        threads: int = 1,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        self._charter = federation.charter
        self._threads, self._token_budget = threads, token_budget
        self._model = attach_adapter(
            load_base_model(federation.base_model), lora_of(federation.charter)
        )
        self._tokenizer = load_tokenizer(federation.base_model)
        self._examples: dict[str, Sequence[Example]] = {}
        self._units: dict[str, Sequence[Slots] | None] = {}
        self._held_out: dict[str, HeldOut] = {}
        self._data = federation.data
        self._lock = asyncio.Lock()

    def examples(self, silo: str) -> Sequence[Example]:
        """The silo's records as tokens, read once; held-out ones have no label."""
        if silo not in self._examples:
            charter, agreed = self._charter, self._charter.template
            records = load_records(self._data[silo])
            examples = make_examples(
                records,
                self._tokenizer,
                load_template(agreed.name, self._tokenizer, agreed.digest),
                max_tokens=charter.max_tokens,
            )
            self._examples[silo], self._held_out[silo] = set_apart(
                records, examples, self.units(silo)
            )
        return self._examples[silo]

    def units(self, silo: str) -> Sequence[Slots] | None:
        """The silo's privacy units, made once; None where each record is one."""
        if silo not in self._units:
            plan, key = self._charter.plan_for(silo), self._charter.digest()
            records = load_records(self._data[silo])
            self._units[silo] = planned_units(records, plan, key)
        return self._units[silo]

    async def tune(
        self,
        silo: str,
        round: int,
        state: GridState,
        charge: Charge,
        personal: Personal | None = None,
    ) -> NDArray[np.float32]:
        """One round of one silo: the noised update, float32, of what the round releases.

        What the silo keeps goes to `personal`.
        """
        async with self._lock:
            own = personal and await asyncio.to_thread(personal.whole, state)
            initial = to_float32(state) if own is None else own
            ready = await asyncio.to_thread(self._prepare, silo, round, initial)
            await charge()
            tuned = await asyncio.to_thread(self._run, silo, round, ready)
        if personal is not None:
            await asyncio.to_thread(personal.keep, round, tuned.kept)
        return tuned.update

    def _prepare(
        self, silo: str, round: int, initial: NDArray[np.float32]
    ) -> ReadyRound:
        plan = self._charter.plan_for(silo)
        return prepare_round(
            self._model,
            plan,
            initial=initial,
            max_tokens=self._charter.max_tokens,
            token_budget=self._token_budget,
            unit_rows=plan.records_per_person or 1,
            tuned=factors(self._charter.adapter.aggregation, round),
        )

    def _run(self, silo: str, round: int, ready: ReadyRound) -> Tuned:
        examples, plan = self.examples(silo), self._charter.plan_for(silo).evaluation
        figure = evaluate(
            ready,
            self._held_out[silo] if plan is not None else None,
            plan,
            noise_key=os.urandom(32),
        )
        change = run_round(
            ready,
            examples,
            optimizer_of(self._charter, round),
            noise_key=os.urandom(32),
            units=self.units(silo),
            threads=self._threads,
        )
        adapter = self._charter.adapter
        tuned = factors(adapter.aggregation, round)
        kept = kept_factors(adapter.aggregation)
        parts = divide(adapter.layout, tuned, kept, ready.initial, change)
        return parts.with_figure(figure)


def simulate(
    data: Mapping[str, str | Path | DataSource],
    plan: Mapping[str, Any] | PlanFile,
    *,
    folder: Path | None = None,
    threads: int = 1,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Simulation:
    """Run a federation of these silos' records in this process; returns what it left.

    Args:
        data: silo name -> where its instruction records are.
        plan: what plan.yaml holds. `federation`, `run`, `aggregator` and `expires` may
            be left out.
        folder: where the parties' folders go; a temporary one that stays by default.
        threads: torch threads; one silo tunes at a time.
        token_budget: tokens of a physical batch.
        on_event: called as rounds and phases pass.

    Raises:
        ConfigError, PolicyRefusal, BudgetExhausted, QuorumLost: as the daemons do.
    """
    import torch

    torch.set_num_threads(threads)
    sources = {name: _source(where) for name, where in data.items()}
    federation = found_federation(
        folder or Path(tempfile.mkdtemp(prefix="fedit-")),
        plan if isinstance(plan, PlanFile) else run_plan(plan),
        sources,
        threads=threads,
        token_budget=token_budget,
    )
    tuner = Tuner(federation, threads=threads, token_budget=token_budget)
    return asyncio.run(run_in_memory(federation, tuner, on_event))


async def run_in_memory(
    federation: LocalFederation,
    tuner: Tuner,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Simulation:
    """All rounds of a founded federation over in-memory links."""
    charter, folder = federation.charter, federation.folder / "run"
    run_folder = RunFolder(folder, charter, federation.initial)
    aggregator = Aggregator(
        charter,
        federation.approvals,
        federation.aggregator.signing,
        run_folder,
        base_model=str(federation.base_model),
        on_event=on_event,
    )
    limits, published = Limits.of(charter.secagg_params()), Published(aggregator)
    with ExitStack() as stack:
        jobs, epsilons = [], {}
        all_books = {}
        for name, identity in federation.silos.items():
            home = federation.folder / name / "state"
            journal = stack.enter_context(open_journal(home))
            states = StateStore(home / "states")
            key = identity.signing
            personal = Personal.of(journal, charter, name, str(federation.base_model))
            terms = (journal, states, charter, name, key, federation.policy)
            books = Books(*terms, personal=personal)
            books.admit(commitment(load_records(federation.data[name]), key))
            all_books[name] = books
            jobs.append(_silo_job(charter, name, key, books, tuner, aggregator,
                                  limits, published))  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(job)
                state = await aggregator.run()
        except BaseExceptionGroup as failures:
            # Whichever party failed first, its one sentence is what the user needs.
            raise next(_leaves(failures)) from None
        own = {}
        for name, books in all_books.items():
            epsilons[name] = books.spent()
            if books.personal is not None:
                own[name] = books.personal.adapter
    adapter, readings = to_float32(state), run_folder.readings()
    return Simulation(charter, state, adapter, epsilons, folder, readings, own)


async def _silo_job(
    charter: Charter,
    name: str,
    key: Any,
    books: Books,
    tuner: Tuner,
    aggregator: Aggregator,
    limits: Limits,
    published: Published,
) -> None:
    async def tune(round: int, state: GridState, charge: Charge) -> NDArray[np.float32]:
        return await tuner.tune(name, round, state, charge, books.personal)

    serving: list[asyncio.Task[None]] = []

    async def dial() -> SiloLink:
        silo = charter.silo_index(name)
        own, peer = memory_pair(silo, name, published, limits)

        async def serve_peer() -> None:
            with suppress(ConnectError):
                hello = await peer.receive()
                await aggregator.on_connect(peer, hello)  # type: ignore[arg-type]

        serving.append(asyncio.create_task(serve_peer()))
        return own

    await SiloDaemon(charter, name, key, books, tune).run(dial)
    await asyncio.gather(*serving)


def _leaves(failures: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    """The single errors of a group, ours first."""
    matched, rest = failures.split(FeditError)
    for group in filter(None, (matched, rest)):
        for failure in group.exceptions:
            if isinstance(failure, BaseExceptionGroup):
                yield from _leaves(failure)
            else:
                yield failure


def run_plan(plan: Mapping[str, Any]) -> PlanFile:
    """A plan with what a local federation needn't decide filled in."""
    expires = (datetime.now(UTC) + timedelta(days=365)).date().isoformat()
    local = {
        "federation": "local",
        "run": "simulation",
        "aggregator": "127.0.0.1:47100",
        "expires": expires,
    }
    try:
        return PlanFile.model_validate({**local, **plan}, context={})
    except ValueError as error:
        raise ConfigError(f"the plan: {error}") from error


def _source(where: str | Path | DataSource) -> DataSource:
    return where if isinstance(where, DataSource) else DataSource(path=str(where))
