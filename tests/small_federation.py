"""A small federation in memory for fault tests: real daemons, journals and codec; tuning is
a seeded draw instead of a model, so that every sum can be recomputed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.federation.approval import Approval, approve
from fedit_secure.federation.charter import (
    AggregatorRow,
    BaseModelRow,
    Charter,
    Dp,
    Schedule,
    SecAgg,
    SiloDp,
    SiloRow,
    TemplateRow,
)
from fedit_secure.federation.identity import Identity, create_identity
from fedit_secure.federation.local_plan import Adapter, Tuning
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.server_rules import FedAvg, UpdateRule
from fedit_secure.federation.update import GridState, from_float32, with_moments
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import Journal
from fedit_secure.wire.frames import Frame
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import Published, SiloLink, memory_pair

LENGTH = 24
LAYOUT = (
    ("base_model.model.a.lora_A.weight", (2, 6)),
    ("base_model.model.a.lora_B.weight", (6, 2)),
)


POLICY = Policy(epsilon=8.0, delta=1e-5, tell_record_count=True)


class Killed(Exception):
    """This silo's process is gone."""


@dataclass
class FaultyLink:
    """A silo's link that kills the silo at a frame: before sending, or on receiving it."""

    inner: SiloLink
    at_send: type | None = None
    at_receive: type | None = None

    async def send(self, frame: Frame) -> None:
        if type(frame) is self.at_send:
            raise Killed
        await self.inner.send(frame)

    async def receive(self) -> Frame:
        frame = await self.inner.receive()
        if type(frame) is self.at_receive:
            raise Killed
        return frame

    async def upload(self, upload: object) -> None:
        await self.inner.upload(upload)  # type: ignore[arg-type]

    async def fetch(self, *args: object) -> bytes:
        return await self.inner.fetch(*args)  # type: ignore[arg-type]

    async def close(self) -> None:
        await self.inner.close()


@dataclass
class SmallFederation:
    """Its parties' files under `root`; `updates[silo, round]` are what was tuned.

    `policies`: of the silos that have another one than `POLICY`.
    """

    root: Path
    charter: Charter
    silos: list[Identity]
    aggregator: Identity
    approvals: list[Approval]
    initial: GridState
    updates: dict[tuple[str, int], list[NDArray[np.float32]]] = field(
        default_factory=dict
    )
    events: list[Event] = field(default_factory=list)
    policies: dict[str, Policy] = field(default_factory=dict)

    def new_aggregator(
        self, on_event: Callable[[Event], None] | None = None
    ) -> Aggregator:
        """An aggregator process, from what is on the disk."""
        folder = RunFolder(self.root / "run", self.charter, self.initial)
        return Aggregator(
            self.charter,
            self.approvals,
            self.aggregator.signing,
            folder,
            on_event=on_event or self.events.append,
        )

    def books(self, silo: Identity, journal: Journal) -> Books:
        """A silo's books over its open journal."""
        return Books(
            journal,
            StateStore(self.root / silo.name / "states"),
            self.charter,
            silo.name,
            silo.signing,
            self.policies.get(silo.name, POLICY),
        )

    async def run_silo(
        self,
        silo: Identity,
        hub: Callable[[], Aggregator],
        *,
        at_send: type | None = None,
        at_receive: type | None = None,
        tune_seconds: float = 0.0,
        before_charge: Callable[[Books], None] = lambda books: None,
        on_event: Callable[[int, str], None] = lambda round, phase: None,
    ) -> GridState:
        """One silo process until the run ends, or until it is killed at a frame.

        `before_charge`: called when its tuning is about to charge.
        """
        charter, name = self.charter, silo.name
        home = self.root / name
        limits = Limits.of(charter.secagg_params())

        async def tune(
            round: int, state: GridState, charge: Charge
        ) -> NDArray[np.float32]:
            before_charge(books)
            await charge()
            await asyncio.sleep(tune_seconds)
            drawn = self.updates.setdefault((name, round), [])
            seed = [charter.silo_index(name), round, len(drawn)]
            values = np.random.default_rng(seed).normal(0, 0.02, LENGTH)
            drawn.append(values.astype(np.float32))
            return drawn[-1]

        serving: list[asyncio.Task[None]] = []

        async def dial() -> SiloLink:
            aggregator, index = hub(), charter.silo_index(name)
            own, peer = memory_pair(index, name, Published(aggregator), limits)

            async def serve_peer() -> None:
                await aggregator.on_connect(peer, await peer.receive())  # type: ignore[arg-type]

            serving.append(asyncio.create_task(serve_peer()))
            return FaultyLink(own, at_send, at_receive)

        with open_journal(home) as journal:
            books = self.books(silo, journal)
            books.admit(bytes(32))
            policy = self.policies.get(name, POLICY)
            daemon = SiloDaemon(
                charter,
                name,
                silo.signing,
                books,
                tune,
                hours=policy.hours,
                on_event=on_event,
            )
            try:
                return await daemon.run(dial)
            finally:
                await asyncio.gather(*serving)

    def mean_of(self, round: int, names: list[str]) -> NDArray[np.float64]:
        """The mean of what these silos tuned last in a round."""
        return np.mean([self.updates[name, round][-1] for name in names], axis=0)


def found(
    root: Path,
    silos: int,
    rounds: int = 1,
    *,
    rule: UpdateRule = FedAvg(),  # noqa: B008
    drawn: int | None = None,
    fits: Callable[[Charter], bool] = lambda charter: True,
    **schedule: float,
) -> SmallFederation:
    """Identities, charter and approvals for `silos` silos named s0, s1, ...; so many of
    them are `drawn` for each round, None for all. The run has a name with which the charter
    `fits`: another name draws others.
    """
    now = datetime.now(UTC)
    parties = [
        create_identity(
            root / f"s{i}" / "identity", f"s{i}", "silo", "x", now=now, records=100
        )
        for i in range(silos)
    ]
    hub = create_identity(root / "hub" / "identity", "hub", "aggregator", "x", now=now)
    initial = with_moments(from_float32(LAYOUT, np.zeros(LENGTH, np.float32)), rule)
    sizes = release_sizes(silos, drawn=drawn, length=LENGTH, bound=0.25)
    times = {"tune_deadline_seconds": 60.0, "phase_deadline_seconds": 0.5}
    times |= {"silo_deadline_seconds": 1.0, "ready_slot_seconds": 0.01} | schedule
    charter = Charter(
        federation="small",
        epoch=1,
        predecessor=None,
        run="run",
        expires=date(2100, 1, 1),
        roster=tuple(
            SiloRow(
                name=party.name,
                identity=party.card.identity,
                issuer_certificate=party.card.issuer_certificate,
                population=party.name,
                weight=1,
                records=100,
                dp=SiloDp(sample_rate=0.1, noise_multiplier=2.0, expected_batch=10),
            )
            for party in parties
        ),
        aggregator=AggregatorRow(
            name=hub.name,
            identity=hub.card.identity,
            issuer_certificate=hub.card.issuer_certificate,
            address="127.0.0.1:1",
        ),
        base_model=BaseModelRow(name="none", digest="00" * 32),
        template=TemplateRow(name="alpaca", digest="00" * 32),
        max_tokens=64,
        adapter=Adapter(rank=2, initial_digest=initial.digest().hex(), layout=LAYOUT),
        tuning=Tuning(learning_rate=1e-3, local_steps=3),
        rounds=rounds,
        silos_per_round=drawn,
        dp=Dp(epsilon=8.0, delta=1e-5, clip=1.0),
        secagg=SecAgg(
            corrupt=sizes.corrupt,
            minimum=sizes.minimum,
            ring_bits=24,
            bound=sizes.bound,
            allow_pair=False,
        ),
        update_rule=rule,
        schedule=Schedule(**times),
    )
    for number in count(2):
        if fits(charter):
            break
        charter = charter.model_copy(update={"run": f"run-{number}"})
    # Accounting takes seconds the first time; no test's deadline should wait for it.
    charter.plan_for("s0").epsilons()
    approvals = [approve(charter, party.name, party.signing) for party in parties]
    return SmallFederation(root, charter, parties, hub, approvals, initial)
