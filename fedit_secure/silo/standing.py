"""Where a silo stands, kept up to date by its daemon's events: see `watch.snapshot`.

It stays in the silo: its times show how long tuning took.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from fedit_secure import __version__, log_fields
from fedit_secure.federation.admission import Account
from fedit_secure.federation.card import Card
from fedit_secure.federation.certificates import check_issuer
from fedit_secure.federation.charter import Charter
from fedit_secure.privacy.events import CapChanged, Inherited, Intent, Lost
from fedit_secure.privacy.ledger import Aborted, Ledger, Released
from fedit_secure.silo.accounting import Ask, Question, answer, take_caps
from fedit_secure.silo.evaluations import Evaluated
from fedit_secure.watch import snapshot as w
from fedit_secure.wire.traffic import Traffic

_OF_WORKER = frozenset(("loading", "ready", "tuning"))
_COSTS = (CapChanged, Inherited, Intent, Lost)  # what epsilon and cap depend on
_STALE_SECONDS = 3600.0  # windows of a policy move on with the clock


class Standing:
    """Takes the daemon's events; `snapshot` says where it stands.

    `account` reads the population's books, and `progress` says which round is certified
    and how long the ledger is: `refresh` reads the books when it has grown, and asks what
    they cost: computed here, that would take more memory than the daemon.
    `evaluated` is what evaluations have shown of a round, and `on_phase(phase, seconds)` is
    told of each phase that has ended. `clock` is Unix time.
    """

    def __init__(
        self,
        charter: Charter,
        card: Card,
        aggregator: str,
        traffic: Traffic,
        account: Callable[[], Account],
        progress: Callable[[], tuple[int, int]],
        *,
        ask: Ask = answer,
        evaluated: Callable[[int], Evaluated] = lambda round: Evaluated(),
        on_phase: Callable[[str, float], None] = lambda phase, seconds: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._charter, self._name, self._aggregator = charter, card.name, aggregator
        self._traffic, self._account, self._progress = traffic, account, progress
        self._ask, self._on_phase, self._clock = ask, on_phase, clock
        self._evaluated = evaluated
        now = clock()
        self._daemon = w.Daemon(
            name=card.name, version=__version__, pid=os.getpid(), started=now, at=now,
            state="running",
        )  # fmt: skip
        self._now = w.Now(round=progress()[0] + 1, phase="starting", since=now)
        self._connected, self._connection_since = False, now
        self._issuer = check_issuer(card.issuer_certificate).not_valid_after_utc
        self._leaf: datetime | None = None
        self._entries, self._costs, self._asked = -1, -1, -math.inf
        self._caps: tuple[w.Cap, ...] = ()
        self._ledger: Ledger | None = None

    def take(self, round: int, phase: str, step: int = 0, steps: int = 0) -> None:
        """The daemon is in this phase; `step` of `steps` is the plan's."""
        if phase == "tuning" and not steps:
            phase = "loading"  # the worker hasn't begun
        now = self._clock()
        if (round, phase) == (self._now.round, self._now.phase):
            self._now = replace(self._now, step=step, steps=steps)
            return
        self._on_phase(self._now.phase, now - self._now.since)
        self._now = w.Now(round=round, phase=phase, since=now, step=step, steps=steps)
        # Logs are shipped: how far the worker is at some moment depends on the records.
        logged = "tuning" if phase in _OF_WORKER else phase
        log_fields.change(round=round, phase=logged)

    def dials(self, leaf_ends: datetime) -> None:
        """There is no connection; the next one will show a leaf that ends then."""
        self._leaf = leaf_ends
        self._connection(False)

    def connected(self) -> None:
        """The aggregator has answered."""
        self._connection(True)

    def finish(self, state: w.State, why: str = "") -> None:
        """The process ends like this; what was said first holds."""
        if self._daemon.state == "running":
            self._daemon = replace(self._daemon, state=state, why=why)
        self._connection(False)

    def refresh(self) -> None:
        """Read the books if they have changed; computes epsilon, in a worker thread.

        Raises as `account_in`, and PrivacyAccountingError.
        """
        entries, now = self._progress()[1], self._clock()
        stale = now - self._asked >= _STALE_SECONDS
        if entries == self._entries and not stale:
            return
        account = self._account()
        ledger = account.ledger
        events = () if ledger is None else ledger.events
        costs = sum(isinstance(event, _COSTS) for event in events)
        if costs != self._costs or stale:
            self._caps = self._ask_caps(account)
            self._costs, self._asked = costs, now
        self._ledger, self._entries = ledger, entries

    def _ask_caps(self, account: Account) -> tuple[w.Cap, ...]:
        question = Question(
            "caps",
            self._charter,
            self._name,
            account.policy,
            () if account.ledger is None else account.ledger.entries,
            account.times,
        )
        return tuple(
            w.Cap(covers=of, delta=delta, spent=_finite(spent), limit=_finite(limit))
            for of, delta, spent, limit in take_caps(self._ask(question))
        )

    def snapshot(self) -> w.SiloSnapshot:
        """Where it stands now."""
        charter = self._charter
        certified, _ = self._progress()
        own = charter.digest().hex()
        ledger, row = self._ledger, charter.row(self._name)
        plan = charter.plan_for(self._name)
        return w.SiloSnapshot(
            daemon=replace(self._daemon, at=self._clock()),
            run=w.Run(
                federation=charter.federation,
                epoch=charter.epoch,
                name=charter.run,
                charter=own,
                expires=charter.expires.isoformat(),
                rounds=charter.rounds,
                certified=certified,
            ),
            now=self._now,
            aggregator=self._aggregator,
            connected=self._connected,
            connection_since=self._connection_since,
            charges=0 if ledger is None else len(ledger.intents(own)),
            planned=plan.charges,
            run_epsilon=None if plan.kind == "none" else charter.dp.epsilon,
            caps=self._caps,
            head=None
            if ledger is None
            else w.Head(
                silo=self._name,
                population=row.population,
                entries=ledger.sequence,
                hash=ledger.hash.hex(),
            ),
            rounds=()
            if ledger is None
            else tuple(self._with_figures(ended) for ended in _rounds(ledger, own)),
            certificates=tuple(self._certificates()),
            traffic=w.Traffic(
                sent=sum(self._traffic.sent.values()),
                received=sum(self._traffic.received.values()),
            ),
        )

    # -------------------------------------------------------------------------- details

    def _with_figures(self, ended: w.EndedRound) -> w.EndedRound:
        found = self._evaluated(ended.round)
        own, read = found.own, found.federation
        return replace(
            ended,
            nll=None if read is None else read.nll,
            nll_deviation=None if read is None else read.deviation,
            own_nll=None if own is None else own.nll,
        )

    def _connection(self, up: bool) -> None:
        if up != self._connected:
            self._connected, self._connection_since = up, self._clock()

    def _certificates(self) -> list[w.Certificate]:
        ends = {"leaf": self._leaf, "issuer": self._issuer}
        found = [
            w.Certificate(
                party=self._name,
                role="silo",
                kind="leaf" if kind == "leaf" else "issuer",
                ends=end.timestamp(),
            )
            for kind, end in ends.items()
            if end is not None
        ]
        hub = self._charter.aggregator
        end = check_issuer(hub.issuer_certificate).not_valid_after_utc
        found.append(
            w.Certificate(
                party=hub.name, role="aggregator", kind="issuer", ends=end.timestamp()
            )
        )
        return found


def _rounds(ledger: Ledger, charter: str) -> tuple[w.EndedRound, ...]:
    """The rounds of this charter that closed with a charge of this silo."""
    found: dict[int, w.EndedRound] = {}
    for event in ledger.events:
        if isinstance(event, Released) and event.charter == charter:
            found[event.round] = w.EndedRound(
                round=event.round,
                outcome="released",
                state=event.state_digest,
                contributors=event.contributors or (),
            )
        elif isinstance(event, Aborted) and event.charter == charter:
            found[event.round] = w.EndedRound(round=event.round, outcome="skipped")
    return tuple(found.values())[-w.MOST_ROUNDS :]


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None
