"""What one silo's ledger says, and where in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedit_secure.audit.findings import Fault
from fedit_secure.privacy import events as e

Key = tuple[str, int]  # a charter's digest in hex, and one of its rounds


@dataclass(frozen=True, slots=True)
class Charge:
    """One intent: where it stands in the ledger, and what was charged for what."""

    entry: int
    charter: str
    round: int
    state: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Terms:
    """What all charges of one charter have in common."""

    run: str
    dp: str
    sample_rate: float
    noise_multiplier: float
    clip: float | None
    expected_batch: int
    steps: int
    charges: int
    weight: int
    unit: str
    sizes: str
    dtype: str
    evaluation: e.ChargedEvaluation | None = None

    @classmethod
    def of(cls, intent: e.Intent) -> Terms:
        """The terms of an intent."""
        return cls(*(getattr(intent, name) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Carried:
    """What counts in a ledger from an entry on, and was charged elsewhere.

    `source`: the population that it is from, "" for a lost ledger. `lost`: epsilon that
    nothing can recompute, inf if nothing bounds it. `steps`: by sample rate and noise
    multiplier. `order`: of the source's filter; None for a lost ledger.
    """

    entry: int
    source: str
    lost: float
    steps: tuple[tuple[float, float, int], ...] = ()
    order: float | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """What a silo's ledger says of a release; sets and sum only where it saw them."""

    entry: int
    release: str
    state: str
    contributors: tuple[str, ...] | None
    sum: str | None


@dataclass(slots=True)
class History:
    """What a ledger says, up to its end or to the first entry that can't be.

    Attributes:
        hashes: the chain: `hashes[k]` after k entries.
        charges: in their order.
        carried: what was charged elsewhere, in its order.
        caps: (entry, lifetime cap from there on), None for no cap. A change that isn't
            signed changes nothing, and is in `unsigned`.
        commits, releases, aborted: by charter and round.
        masks: by attempt (ctx in hex), the entry.
        voids: attempts that this silo closed.
        renewed: attempts that a quorum closed, by their void statements.
        faults: what is wrong with the ledger itself.
    """

    silo: str
    hashes: list[bytes] = field(default_factory=lambda: [bytes(32)])
    opened: e.Opened | None = None
    identity: str = ""
    charges: list[Charge] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    caps: list[tuple[int, float | None]] = field(default_factory=list)
    unsigned: list[int] = field(default_factory=list)
    commits: dict[Key, int] = field(default_factory=dict)
    releases: dict[Key, Release] = field(default_factory=dict)
    aborted: set[Key] = field(default_factory=set)
    masks: dict[str, int] = field(default_factory=dict)
    voids: set[str] = field(default_factory=set)
    renewed: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """How many entries the file has; the chain covers all of them."""
        return len(self.hashes) - 1

    @property
    def readable(self) -> bool:
        """Whether it was read to its end."""
        return not self.faults

    def leads_to(self, sequence: int, hash: bytes) -> bool:
        """Whether a head lies on this ledger."""
        return 1 <= sequence <= self.entries and self.hashes[sequence] == hash

    def of(self, charter: str) -> list[Charge]:
        """The charges under one charter."""
        return [charge for charge in self.charges if charge.charter == charter]
