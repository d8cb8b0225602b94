"""`simulate`: the same federation in one process, over an in-memory link.

Protocol, wire codec, ledgers, tuning and update rule are the very ones that the daemons
run; only the network, and the process around each tuning job, are left out.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.config import PlanFile
from fedit_secure.errors import ConfigError, ConnectError, FeditError
from fedit_secure.evaluation.score import score
from fedit_secure.federation.aggregation import factors, kept_factors
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import describe
from fedit_secure.federation.server_rules import ServerRule
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.silo.jobs import lora_of, optimizer_of
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.personal import Personal
from fedit_secure.simulation.own_rule import OwnRule, Step, own_rule
from fedit_secure.simulation.parties import LocalFederation
from fedit_secure.simulation.reopening import open_simulation
from fedit_secure.simulation.results import Simulation
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.tuning.adapter import attach_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.batches import Slots
from fedit_secure.tuning.examples import Example, load_template, make_examples
from fedit_secure.tuning.held_out import HeldOut, evaluate, set_apart
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET, DataSource
from fedit_secure.tuning.kept_part import Tuned, divide
from fedit_secure.tuning.local_round import ReadyRound, prepare_round, run_round
from fedit_secure.tuning.records import Record, load_records
from fedit_secure.tuning.units import planned_units
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import Published, SiloLink, memory_pair

Where = str | Path | Mapping[str, Any] | DataSource
"""A file or folder of records, and how its columns are named."""


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
        agreed = federation.charter.template
        self._template = load_template(agreed.name, self._tokenizer, agreed.digest)
        self._examples: dict[str, Sequence[Example]] = {}
        self._units: dict[str, Sequence[Slots] | None] = {}
        self._held_out: dict[str, HeldOut] = {}
        self._data = federation.data
        self._lock = asyncio.Lock()

    def examples(self, silo: str) -> Sequence[Example]:
        """The silo's records as tokens, read once; held-out ones have no label."""
        if silo not in self._examples:
            charter = self._charter
            records = load_records(self._data[silo])
            examples = make_examples(
                records, self._tokenizer, self._template, max_tokens=charter.max_tokens
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

    def nll(self, adapter: NDArray[np.float32], records: Sequence[Record]) -> float:
        """Response NLL of an adapter, in nats per token, mean over the records."""
        charter = self._charter
        write_adapter(self._model, adapter)
        scores = score(
            self._model,
            self._tokenizer,
            records,
            self._template,
            charter.max_tokens,
            token_budget=self._token_budget,
        )
        return scores.nll

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
    data: Mapping[str, Where],
    plan: Mapping[str, Any] | PlanFile,
    *,
    folder: str | Path | None = None,
    held_out: Where | None = None,
    server_rule: ServerRule | Step | None = None,
    threads: int = 1,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Simulation:
    """Run a federation of these silos' records in this process; returns what it left.

    Args:
        data: silo name -> where its instruction records are: a path, or what `DataSource`
            takes, as in {"path": "a.csv", "columns": {"instruction": "question"}}.
        plan: what plan.yaml holds. `federation`, `run`, `aggregator` and `expires` may
            be left out.
        folder: where the parties' folders go; a temporary one that stays by default. A
            simulation that was killed there goes on after its last certified round.
        held_out: records of which every round's adapter is scored.
        server_rule: instead of the plan's `update_rule`: an object like those of
            `federation.server_rules`, or a function from the mean update to the
            adapter's step, both float64 in grid steps of 2^-24, coordinate by coordinate.
        threads: torch threads while it runs; one silo tunes at a time.
        token_budget: tokens of a physical batch.
        on_event: called as rounds and phases pass.

    Raises:
        ConfigError, PolicyRefusal, BudgetExhausted, QuorumLost: as the daemons do.
    """
    sources = {name: _source(where) for name, where in data.items()}
    scored = None if held_out is None else load_records(_source(held_out))
    rule = None if server_rule is None else own_rule(server_rule)
    with _torch_threads(threads):
        federation = open_simulation(
            Path(tempfile.mkdtemp(prefix="fedit-")) if folder is None else Path(folder),
            plan if isinstance(plan, PlanFile) else run_plan(_completed(plan, rule)),
            sources,
            rule=rule,
            threads=threads,
            token_budget=token_budget,
        )
        tuner = Tuner(federation, threads=threads, token_budget=token_budget)
        return asyncio.run(run_in_memory(federation, tuner, on_event, held_out=scored))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """The caller's own number is there again afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


async def run_in_memory(
    federation: LocalFederation,
    tuner: Tuner,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    held_out: Sequence[Record] | None = None,
) -> Simulation:
    """All rounds that are left of a federation, over in-memory links."""
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
    nlls = await asyncio.to_thread(_nlls, run_folder, tuner, held_out)
    return Simulation(
        charter,
        state,
        to_float32(state),
        epsilons,
        folder,
        nlls,
        run_folder.readings(),
        own,
    )


def _nlls(
    folder: RunFolder, tuner: Tuner, held_out: Sequence[Record] | None
) -> list[float | None]:
    """Of the state before the first round, and after each; None without records."""
    rounds = range(folder.progress.certified + 1)
    if held_out is None:
        return [None for _ in rounds]
    states = (folder.state_after(round) for round in rounds)
    return [tuner.nll(to_float32(state), held_out) for state in states]


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


def _completed(plan: Mapping[str, Any], rule: OwnRule | None) -> dict[str, Any]:
    """What a simulation says by default: short slots, since no party hides its times from
    another, and, with a rule that the charter can't name, a run that is called so."""
    run = {} if rule is None else {"run": "simulation-own-rule"}
    slots = {"ready_slot_seconds": 0.01}
    return {**run, **plan, "schedule": {**slots, **dict(plan.get("schedule", {}))}}


def run_plan(plan: Mapping[str, Any]) -> PlanFile:
    """A plan with what a local federation needn't decide filled in."""
    expires = (datetime.now(UTC) + timedelta(days=365)).date().isoformat()
    named = {k: str(v) if isinstance(v, Path) else v for k, v in plan.items()}
    local = {
        "federation": "local",
        "run": "simulation",
        "aggregator": "127.0.0.1:47100",
        "expires": expires,
    }
    try:
        return PlanFile.model_validate({**local, **named}, context={})
    except ValueError as error:
        raise ConfigError(f"the plan: {error}") from error


def _source(where: Where) -> DataSource:
    if isinstance(where, DataSource):
        return where
    fields = dict(where) if isinstance(where, Mapping) else {"path": str(where)}
    try:
        return DataSource.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"the data: {describe(error.errors()[0])}") from error
