"""Where a daemon stands, as plain data: all that its page, metrics and commands know.

Nothing here is derived from records: it follows from the charter, the clock, the ledger and
the messages that passed. Yet a silo's times tell how long its tuning took, which depends on
how many records it has, so a silo's snapshot stays in the silo. Times are Unix seconds (UTC),
digests hex.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedit_secure.errors import StorageError

State = Literal["running", "ended", "stopped", "failed"]
Outcome = Literal["released", "skipped"]

MOST_ROUNDS = 100  # that a snapshot lists; the run folder has all


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The process. `at`: when the snapshot was made. `why`: how it ended, one sentence."""

    name: str
    version: str
    pid: int
    started: float
    at: float
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the charter says, and how far it has come. `certified`: rounds closed."""

    federation: str
    epoch: int
    name: str
    charter: str
    expires: str
    rounds: int
    certified: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """The round and phase under way. `deadline`: when the phase ends if nothing moves, None
    where nothing is awaited. `step` of `steps` while tuning, else 0: the plan's numbers."""

    round: int
    phase: str
    since: float
    deadline: float | None = None
    attempt: int = 0
    step: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRound:
    """One round that is closed. `state` names the global state after it, `adapter` is where
    the adapter lies, `contributors` are the silos in the sum, where they are known here.
    `seconds`: how long it took, if this process saw all of it."""

    round: int
    outcome: Outcome
    state: str | None = None
    adapter: str | None = None
    contributors: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """`kind` leaf is shown to peers and renews by itself; issuer is pinned by the charter."""

    party: str
    role: Literal["silo", "aggregator"]
    kind: Literal["leaf", "issuer"]
    ends: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a privacy ledger, as far as it is known here."""

    silo: str
    population: str
    entries: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of gRPC messages since the process started; without HTTP/2 and TLS."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """Epsilon at `delta` against one cap. `limit` None: no cap; `spent` None: records were
    used without differential privacy, so nothing is bounded."""

    covers: str
    delta: float
    spent: float | None
    limit: float | None

    @property
    def share(self) -> float | None:
        """Of the cap that is spent, from 0 on; None without a cap."""
        if self.limit is None:
            return None
        return 1.0 if self.spent is None else self.spent / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSilo:
    """One silo as the aggregator sees it. `ready`: its update of this round is tuned.
    `drawn`: the round under way is drawn for it."""

    name: str
    connected: bool
    phase: str
    since: float
    ready: bool
    traffic: Traffic
    drawn: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorSnapshot:
    """All that an aggregator knows. `minimum`: silos that a sum needs at least."""

    role: Literal["aggregator"] = "aggregator"
    daemon: Daemon
    run: Run
    now: Now
    minimum: int
    silos: tuple[ServedSilo, ...]
    attempts_voided: int
    rounds: tuple[EndedRound, ...]
    heads: tuple[Head, ...]
    certificates: tuple[Certificate, ...]
    traffic: Traffic

    @property
    def ready(self) -> int:
        """How many silos are ready."""
        return sum(silo.ready for silo in self.silos)

    @property
    def connected(self) -> int:
        """How many silos are connected."""
        return sum(silo.connected for silo in self.silos)

    @property
    def drawn(self) -> tuple[ServedSilo, ...]:
        """The silos that take part in the round under way."""
        return tuple(silo for silo in self.silos if silo.drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloSnapshot:
    """All that a silo's operator wants to know. `run_epsilon` is what the charter claims for
    the whole run, None without differential privacy. `charges` of `planned` are made."""

    role: Literal["silo"] = "silo"
    daemon: Daemon
    run: Run
    now: Now
    aggregator: str
    connected: bool
    connection_since: float
    charges: int
    planned: int
    run_epsilon: float | None
    caps: tuple[Cap, ...]
    head: Head | None
    rounds: tuple[EndedRound, ...]
    certificates: tuple[Certificate, ...]
    traffic: Traffic


Snapshot = AggregatorSnapshot | SiloSnapshot

_JSON: TypeAdapter[Snapshot] = TypeAdapter(
    Annotated[Snapshot, Field(discriminator="role")]
)


def to_json(snapshot: Snapshot) -> bytes:
    """One line of JSON."""
    return _JSON.dump_json(snapshot)


def from_json(data: bytes, origin: str) -> Snapshot:
    """Raises StorageError that names `origin` for what `to_json` never made."""
    try:
        return _JSON.validate_json(data)
    except ValidationError as error:
        raise StorageError(f"{origin} is no snapshot of a daemon") from error


def seconds_a_round(snapshot: Snapshot) -> float | None:
    """The median of the rounds that were seen whole; None before the first."""
    known = sorted(r.seconds for r in snapshot.rounds if r.seconds is not None)
    return known[len(known) // 2] if known else None


def seconds_left(snapshot: Snapshot) -> float | None:
    """Until the run's end if rounds go on as before; None while nobody can tell."""
    each, run = seconds_a_round(snapshot), snapshot.run
    if each is None or snapshot.daemon.state != "running":
        return None
    return each * max(0, run.rounds - run.certified)
