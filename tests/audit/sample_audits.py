"""Audits made by hand, for what is drawn of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedit_secure.audit.facts import Audit, Cost, RoundFacts, SiloFacts
from fedit_secure.audit.findings import Fault, verdicts

WORDS = "ability absorb abstract acid across action actor adapt admit advance aerobic"
PLAN = {
    "minimum_silos": 3,
    "quorum": 3,
    "silos_that_may_collude": 1,
    "base_model": "public-base",
    "coordinates": 123_456,
    "local_steps": 4,
    "privacy": "local",
    "epsilon": 4.0,
    "delta": 1e-6,
    "unit": "record",
    "sizes": "public",
    "records_per_person": None,
    "clip": 0.5,
    "spare_charges": 1,
    "expires": "2030-03-01",
}
BESIDE = (
    {"hidden": "one record: the claim", "epsilon": 3.6, "stated_by": "max(PLD, PRV)"},
    {"hidden": "one record, replaced", "epsilon": 6.1, "stated_by": "PLD alone"},
    {"hidden": "the others", "epsilon": "not computed", "stated_by": "-"},
)


def sample_audit(
    names: Sequence[str] = ("north-hospital", "south-clinic", "east-clinic"),
    rounds: int = 6,
    faults: Sequence[Fault] = (),
    lacks: Mapping[str, tuple[str, ...]] | None = None,
) -> Audit:
    """A run in which a round is skipped, and each silo once isn't in the sum."""
    return Audit(
        bundle="run.zip",
        maker="aggregator hub",
        federation="hospitals",
        run="notes",
        epoch=1,
        charter="ef" * 32,
        words=WORDS,
        plan=PLAN
        | {"rounds": rounds, "silos": len(names), "silos_per_round": len(names)},
        verdicts=verdicts(faults, lacks or {}),
        silos=tuple(_silo(n, name, rounds) for n, name in enumerate(names)),
        rounds=tuple(_round(n, names) for n in range(1, rounds + 1)),
        adapter="12" * 32,
    )


def _silo(n: int, name: str, charges: int) -> SiloFacts:
    epsilon = 3.0 + 0.01 * (n % 9)
    return SiloFacts(
        name=name,
        population=f"patients of {name}",
        unit="record",
        entries=5 * charges + 1,
        head=f"{n:064x}",
        charges=charges,
        planned=charges + 1,
        lost=1,
        before=0,
        run=Cost(1e-6, 3.6, 3.59, 4.1, 3.6),
        lifetime=Cost(1e-6, epsilon, epsilon - 0.003, epsilon * 1.1, epsilon),
        counted=None,
        cap=8.0 if n % 2 else 4.0,
        claimed=epsilon,
        curve=tuple((k, epsilon * (k / charges) ** 0.5) for k in range(charges + 1)),
    )


def _round(round: int, names: Sequence[str]) -> RoundFacts:
    if round == 2:
        return RoundFacts(round, "skipped", names, (), len(names), "ab" * 32)
    there = tuple(name for n, name in enumerate(names) if n % 7 != round % 7)
    return RoundFacts(round, "released", names, there, len(names), "cd" * 32)
