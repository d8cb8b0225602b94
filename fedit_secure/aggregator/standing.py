"""Where the aggregator stands, kept up to date by its events: see `watch.snapshot`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from fedit_secure import __version__, log_fields
from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.federation.certificates import check_issuer
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.heads import SignedHead
from fedit_secure.watch import snapshot as w
from fedit_secure.wire.traffic import Traffic

_AWAITED = frozenset(
    ("advertise", "share", "mask", "agree", "reveal", "confirm", "void")
)
_CLOSED = frozenset(("certified", "skipped"))


@dataclass(frozen=True, slots=True)
class _Seen:
    connected: bool
    phase: str
    since: float
    ready_for: int = 0


class Standing:
    """Takes the aggregator's events; `snapshot` says where it stands.

    `on_phase(phase, seconds)` is told of each phase of the aggregator that has ended, and
    `leaf_ends` says until when the leaf holds that it shows now. `clock` is Unix time.
    """

    def __init__(
        self,
        charter: Charter,
        folder: RunFolder,
        traffic: Traffic,
        leaf_ends: Callable[[], datetime],
        *,
        on_phase: Callable[[str, float], None] = lambda phase, seconds: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._charter, self._folder, self._traffic = charter, folder, traffic
        self._leaf_ends, self._on_phase, self._clock = leaf_ends, on_phase, clock
        now = clock()
        self._daemon = w.Daemon(
            name=charter.aggregator.name, version=__version__, pid=os.getpid(),
            started=now, at=now, state="running",
        )  # fmt: skip
        self._now = w.Now(round=folder.progress.round, phase="starting", since=now)
        self._silos = {row.name: _Seen(False, "away", now) for row in charter.roster}
        self._voided = 0
        self._round_began: tuple[int, float] | None = None
        self._took: dict[int, float] = {}
        self._ended: dict[int, w.EndedRound] = {}
        self._heads: dict[str, tuple[int, w.Head]] = {}
        self._issuers = tuple(_issuers(charter))
        self._cohorts = Cohorts(charter)

    def take(self, event: Event) -> None:
        """The aggregator has told of this."""
        now = self._clock()
        if event.silo:
            before = self._silos[event.silo]
            away = event.phase == "away"
            ready = event.round if event.phase == "tuned" else before.ready_for
            self._silos[event.silo] = _Seen(
                not away, event.phase, now, 0 if away else ready
            )
            return
        self._on_phase(self._now.phase, now - self._now.since)
        if event.round != self._now.round or self._now.phase == "starting":
            self._round_began = (event.round, now)
        if event.phase in _CLOSED and self._round_began is not None:
            began, at = self._round_began
            if began == event.round:
                self._took[event.round] = now - at
        self._voided += event.phase == "voided"
        self._now = w.Now(
            round=event.round,
            phase=event.phase,
            since=now,
            deadline=self._deadline(event.phase, now),
            attempt=self._folder.progress.attempt,
        )
        log_fields.change(round=event.round, phase=event.phase)

    @property
    def has_ended(self) -> bool:
        """Whether the run has come to its end."""
        return self._now.phase == "ended"

    def finish(self, state: w.State, why: str = "") -> None:
        """The process ends like this; what was said first holds."""
        if self._daemon.state == "running":
            self._daemon = replace(self._daemon, state=state, why=why)

    def refresh(self) -> None:
        """Read the last head of each ledger that silo and aggregator have signed."""
        found = dict(self._heads)
        for row in self._charter.roster:
            path = self._folder.folder / "ledgers" / f"{row.name}.head"
            with suppress(FileNotFoundError):  # that silo has no ledger yet
                written = path.stat().st_mtime_ns
                if found.get(row.name, (0,))[0] != written:
                    head = SignedHead.load(path)
                    found[row.name] = (written, _head(row.name, head))
        self._heads = found

    def snapshot(self) -> w.AggregatorSnapshot:
        """Where it stands now."""
        charter, certified = self._charter, self._folder.progress.certified
        drawn = self._cohorts.names(self._now.round)
        sent, received = self._traffic.sent, self._traffic.received
        return w.AggregatorSnapshot(
            daemon=replace(self._daemon, at=self._clock()),
            run=w.Run(
                federation=charter.federation,
                epoch=charter.epoch,
                name=charter.run,
                charter=charter.digest().hex(),
                expires=charter.expires.isoformat(),
                rounds=charter.rounds,
                certified=certified,
            ),
            now=self._now,
            minimum=charter.secagg_params().minimum,
            silos=tuple(
                w.ServedSilo(
                    name=name,
                    connected=seen.connected,
                    phase=seen.phase,
                    since=seen.since,
                    ready=seen.connected and seen.ready_for == self._now.round,
                    traffic=w.Traffic(sent=sent[name], received=received[name]),
                    drawn=name in drawn,
                )
                for name, seen in self._silos.items()
            ),
            attempts_voided=self._voided,
            rounds=self._rounds(certified),
            heads=tuple(head for _, head in self._heads.values()),
            certificates=(
                w.Certificate(
                    party=charter.aggregator.name, role="aggregator", kind="leaf",
                    ends=self._leaf_ends().timestamp(),
                ),
                *self._issuers,
            ),
            traffic=w.Traffic(
                sent=sum(sent.values()), received=sum(received.values())
            ),
        )  # fmt: skip

    # -------------------------------------------------------------------------- details

    def _deadline(self, phase: str, now: float) -> float | None:
        schedule = self._charter.schedule
        if phase == "tuning":
            return now + schedule.tune_deadline_seconds
        return now + schedule.phase_deadline_seconds if phase in _AWAITED else None

    def _rounds(self, certified: int) -> tuple[w.EndedRound, ...]:
        wanted = range(max(1, certified - w.MOST_ROUNDS + 1), certified + 1)
        for number in wanted:
            if number not in self._ended:
                self._ended[number] = self._ended_round(number)
        self._ended = {number: self._ended[number] for number in wanted}
        return tuple(self._ended.values())

    def _ended_round(self, number: int) -> w.EndedRound:
        proof = self._folder.certificate(number)
        assert proof is not None
        state, release = proof.confirmations[0].content()
        roster = self._charter.roster
        names = self._folder.contributors(number) if release else ()
        return w.EndedRound(
            round=number,
            outcome="released" if release else "skipped",
            state=state.hex(),
            adapter=str(self._folder.adapter(number)),
            contributors=tuple(roster[silo].name for silo in names),
            seconds=self._took.get(number),
        )


def _head(silo: str, head: SignedHead) -> w.Head:
    return w.Head(
        silo=silo, population=head.population, entries=head.sequence, hash=head.hash
    )


def _issuers(charter: Charter) -> list[w.Certificate]:
    hub = charter.aggregator
    parties = [("aggregator", hub.name, hub.issuer_certificate)]
    parties += [("silo", row.name, row.issuer_certificate) for row in charter.roster]
    return [
        w.Certificate(
            party=name,
            role="silo" if role == "silo" else "aggregator",
            kind="issuer",
            ends=check_issuer(pem).not_valid_after_utc.timestamp(),
        )
        for role, name, pem in parties
    ]
