"""What a ledger takes over counts in an audit: lost ledgers, other populations, new keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from audit.capping import cap_changed
from audit.forge import Chain, Evidence, Run, _opening
from audit.parties import World, found, key_of
from audit.sealing import write_zip

from fedit_secure.audit.facts import Audit
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.verify import audit_bundle
from fedit_secure.federation.claim import sign_claim
from fedit_secure.federation.ledger_signatures import UNSIGNED, signed_digest
from fedit_secure.privacy import events as e
from fedit_secure.privacy.carried_over import CarriedCharge, Inherited, Lost
from fedit_secure.privacy.ledger import Ledger

_S = TypeVar("_S", e.KeyRotated, Lost, Inherited)


def put(chain: Chain, event: _S, by: str) -> None:
    """The event under somebody's signature, as the next entry."""
    place = (chain.population, len(chain.entries), chain.hashes[-1])
    signature = key_of(by).sign(signed_digest(*place, event)).hex()
    chain.add(event.model_copy(update={"signature": signature}).to_bytes())


def begun(world: World, cap: float = 8.0) -> Chain:
    chain = Chain("patients of s1")
    chain.add(_opening(world, "s1", cap).to_bytes())
    return chain


def inherited(times: int = 2, **changed: object) -> Inherited:
    facts = {
        "source": "staff of s1",
        "sequence": 9,
        "hash": "0d" * 32,
        "unit": "record",
        "filter_order": 12.0,
        "charges": (
            CarriedCharge(sample_rate=0.1, noise_multiplier=3.0, steps=3, times=times),
        ),
        "lost": 0.0,
        "reason": "the same persons",
        "signature": UNSIGNED,
    }
    return Inherited(**(facts | changed))


def lost(epsilon: float | None = 8.0) -> Lost:
    return Lost(epsilon=epsilon, reason="the disk of 2 May", signature=UNSIGNED)


def run_over(chain: Chain, world: World, rounds: int = 3) -> Evidence:
    """An honest run after that, with the claim that the silo signs."""
    run = Run(world, chains={"s1": chain})
    for _ in range(rounds):
        run.released()
    evidence = run.end()
    ledger = Ledger.from_entries(chain.population, chain.entries)
    claim = sign_claim(world.charter, "s1", ledger, key_of("s1"))
    evidence.files["claims/s1.claim"] = claim.to_bytes()
    return evidence


def audited(evidence: Evidence, folder: Path) -> Audit:
    return audit_bundle(write_zip(evidence.sealed(), folder / "run.zip"))


def faults(audit: Audit) -> list[Fault]:
    return [fault for verdict in audit.verdicts for fault in verdict.faults]


def test_inherited_charges_count(tmp_path: Path) -> None:
    world = found()
    chain = begun(world)
    put(chain, inherited(2), "s1")
    put(chain, inherited(4), "s1")  # in the place of the first
    evidence = run_over(chain, world)
    audit = audited(evidence, tmp_path)
    assert faults(audit) == []
    plain, more = audit.silos[0], audit.silos[1]
    assert more.lifetime.published > plain.lifetime.published
    assert more.claimed == pytest.approx(more.lifetime.published, abs=1e-6)
    ledger = Ledger.from_entries(chain.population, chain.entries)
    plan = world.charter.plan_for("s1")
    due = ledger.would_cost(plan, charter=world.charter.digest().hex())
    assert plain.counted is None
    assert more.counted == pytest.approx(due, abs=1e-6)


def test_a_lost_ledger_counts_as_its_whole_cap(tmp_path: Path) -> None:
    world = found()
    run = Run(world, chains={"s1": begun(world)})
    put(run.chains["s1"], lost(), "s1")
    run.write("s1", cap_changed(run, "s1", 8.0, 30.0))
    evidence = run_over(run.chains["s1"], world)
    audit = audited(evidence, tmp_path)
    assert faults(audit) == []
    plain, more = audit.silos[0].lifetime, audit.silos[1].lifetime
    assert more.published == pytest.approx(plain.published + 8.0, abs=1e-9)
    assert audit.silos[1].counted is not None
    assert 8.0 < audit.silos[1].counted < 30.0


def test_a_rotated_key_is_the_silos(tmp_path: Path) -> None:
    world = found()
    chain = Chain("patients of s1")
    old, new = (key_of(name).public.hex() for name in ("s1 of last year", "s1"))
    opening = _opening(world, "s1", 8.0).model_copy(update={"identity": old})
    chain.add(opening.to_bytes())
    put(chain, e.KeyRotated(old=old, new=new, signature=UNSIGNED), "s1 of last year")
    assert faults(audited(run_over(chain, world), tmp_path)) == []


def test_attack_a_run_beyond_the_cap_with_what_was_inherited(tmp_path: Path) -> None:
    """Each fits by itself; the silo's daemon, were it honest, would have refused."""
    world = found()
    chain = begun(world)
    put(chain, inherited(2000), "s1")
    found_ = faults(audited(run_over(chain, world), tmp_path))
    assert [fault.code for fault in found_] == ["cap-exceeded"]
    assert "s1, entry 3" in found_[0].where


def test_attack_a_run_after_a_lost_ledger_as_if_nothing_were_lost(
    tmp_path: Path,
) -> None:
    world = found()
    chain = begun(world)
    put(chain, lost(), "s1")
    codes = [fault.code for fault in faults(audited(run_over(chain, world), tmp_path))]
    assert codes == ["cap-exceeded"]


def forged(tell: Callable[[Chain], None]) -> Callable[[], Evidence]:
    def make() -> Evidence:
        world = found()
        run = Run(world, chains={"s1": begun(world)})
        tell(run.chains["s1"])
        for _ in range(3):
            run.released()
        return run.end()

    return make


def less_than_before(chain: Chain) -> None:
    put(chain, inherited(4), "s1")
    put(chain, inherited(3), "s1")


FORGED: dict[str, tuple[Callable[[Chain], None], str, int]] = {
    "inherited, by a stranger": (
        lambda chain: put(chain, inherited(), "stranger"),
        "entry-unsigned",
        2,
    ),
    "lost, by a stranger": (
        lambda chain: put(chain, lost(), "stranger"),
        "entry-unsigned",
        2,
    ),
    "lost, below the cap": (
        lambda chain: put(chain, lost(0.5), "s1"),
        "entry-impossible",
        2,
    ),
    "from itself": (
        lambda chain: put(chain, inherited(source="patients of s1"), "s1"),
        "entry-impossible",
        2,
    ),
    "taken back": (less_than_before, "entry-impossible", 3),
    "rotated, by the new key": (
        lambda chain: put(
            chain,
            e.KeyRotated(
                old=key_of("s1").public.hex(),
                new=key_of("stranger").public.hex(),
                signature=UNSIGNED,
            ),
            "stranger",
        ),
        "entry-unsigned",
        2,
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_attack_what_nobody_may_enter(tmp_path: Path, name: str) -> None:
    tell, code, entry = FORGED[name]
    first = faults(audited(forged(tell)(), tmp_path))[0]
    assert (first.code, first.where) == (code, f"ledger of s1, entry {entry}")


def test_a_loss_without_a_bound_is_unbounded(tmp_path: Path) -> None:
    world = found()
    chain = Chain("patients of s1")
    chain.add(_opening(world, "s1", None).to_bytes())
    put(chain, lost(None), "s1")
    audit = audited(run_over(chain, world), tmp_path)
    assert faults(audit) == []
    assert audit.silos[1].lifetime.published == float("inf")
    assert audit.silos[1].claimed is None
