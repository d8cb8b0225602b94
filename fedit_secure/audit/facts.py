"""What an audit found out, beside its verdicts: for tables, pictures and other programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedit_secure.audit.findings import BELIEVED, Verdict


@dataclass(frozen=True, slots=True)
class Cost:
    """Epsilons of charges at `delta`, by every accountant.

    None is an accountant that can't reach them; inf where records were used without DP.
    `published` is max(PLD, PRV).
    """

    delta: float
    pld: float | None
    prv: float | None
    rdp: float
    published: float


@dataclass(frozen=True, slots=True)
class SiloFacts:
    """One silo's ledger, and what its charges cost.

    Attributes:
        entries: of its ledger in the bundle.
        charges: under this charter; `planned` in all, spares included; `lost` of them
            brought no release; `before`: charges under earlier charters.
        run: what the charter's whole plan costs at the charter's delta, which is claimed
            however early the run stopped; None without DP.
        lifetime: all charges at the ledger's delta.
        counted: what stands against the cap, where the Renyi filter decides; else None.
        cap: the lifetime cap in force, None where there is none.
        claimed: the epsilon of all charges that the silo signed; None without a claim.
        curve: (charges so far, epsilon so far), at most 50 points.
    """

    name: str
    population: str
    unit: str
    entries: int
    head: str
    charges: int
    planned: int
    lost: int
    before: int
    run: Cost | None
    lifetime: Cost
    counted: float | None
    cap: float | None
    claimed: float | None
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """How a round ended: `outcome` is "released", "skipped" or "unknown". `drawn` are the
    silos that it was drawn for, by the charter."""

    round: int
    outcome: str
    drawn: tuple[str, ...]
    contributors: tuple[str, ...]
    signers: int
    state: str


@dataclass(frozen=True, slots=True)
class Audit:
    """A whole audit.

    Attributes:
        maker: the party that made the bundle.
        charter: its digest R in hex; `words` for operators to compare.
        plan: the charter's parameters, by name.
        adapter: the digest of the final adapter's tensors, recomputed from the sums; None
            where they don't lead there.
    """

    bundle: str
    maker: str
    federation: str
    run: str
    epoch: int
    charter: str
    words: str
    plan: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    silos: tuple[SiloFacts, ...]
    rounds: tuple[RoundFacts, ...]
    adapter: str | None = None
    believed: tuple[str, ...] = BELIEVED

    @property
    def passed(self) -> bool:
        """Whether no claim fails; some may be not shown."""
        return all(verdict.result != "fails" for verdict in self.verdicts)

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        results = [verdict.result for verdict in self.verdicts]
        if fails := results.count("fails"):
            return f"FAILS: {fails} of {len(results)} claims don't hold"
        if unshown := results.count("not shown"):
            holds = f"{results.count('holds')} of {len(results)} claims hold"
            return f"{holds}, {unshown} can't be shown from this bundle"
        return f"all {len(results)} claims hold"

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON's types; inf becomes "unbounded"."""
        found: dict[str, Any] = _plain(asdict(self))
        for verdict, row in zip(self.verdicts, found["verdicts"], strict=True):
            row["sentence"] = verdict.sentence
        return found | {"passed": self.passed, "verdict": self.verdict}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return "unbounded" if value == float("inf") else value
