"""Tampered plans, caps and claims: what it cost, and what was promised."""

from __future__ import annotations

from typing import Any

from audit.capping import cap_changed
from audit.claiming import claim_of
from audit.claiming import signed as signed_claim
from audit.forge import Evidence, Run
from audit.parties import HUB, found
from audit.tampered import changed, honest, instead, run_of, tampered

from fedit_secure.federation.claim import Claim
from fedit_secure.privacy import events as e

# ------------------------------------------------------------------------------- plan


def _planned(name: str, done: str, **fields: Any) -> None:
    def make() -> Evidence:
        return run_of(instead("s1", e.Intent, changed(**fields)))

    make.__name__, make.__doc__ = name, done
    tampered("plan-differs", silo="s1")(make)


_planned(
    "less_noise_than_planned",
    "Silo s1 adds half the noise in every round, and says so.",
    noise_multiplier=1.0,
)
_planned(
    "a_higher_sample_rate_than_planned",
    "Silo s1 draws each record twice as often, and says so.",
    sample_rate=0.2,
)
_planned("another_clip_than_planned", "Silo s1 clips at 2, and says so.", clip=2.0)
_planned(
    "another_batch_than_planned",
    "Silo s1 divides by another batch, and says so.",
    expected_batch=20,
)
_planned("more_steps_than_planned", "Silo s1 takes 4 steps a round.", steps=4)
_planned(
    "more_charges_than_planned", "Silo s1 allows itself 9 charges, not 4.", charges=9
)
_planned("another_weight_than_planned", "Silo s1 weighs itself 3.", weight=3)
_planned("another_run_than_planned", "Silo s1 charges another run.", run="other")


@tampered("plan-overrun", silo="s1", entry=14)
def a_charge_more_than_the_plan_has() -> Evidence:
    """Silo s1 goes on after its 4 charges are used up."""
    run = Run(found())
    run.released(again=["s1"])
    run.released(again=["s1"])
    run.released()
    return run.end()


@tampered("plan-differs", silo="s1")
def a_ledger_that_hides_public_sizes() -> Evidence:
    """Sizes are secret, and silo s1's ledger is one of records that are zeroed out."""
    lie = instead("s1", e.Opened, changed(adjacency="zero-out"))
    run = Run(found(sizes="secret"), writes=lie)
    run.released()
    return run.end()


@tampered("delta-too-large", silo="s2")
def a_delta_that_allows_to_publish_a_record() -> Evidence:
    """Silo s2 has 20,000 records, and the charter's delta is 1e-5."""
    run = Run(found(rounds=1, records=(100, 100, 20_000, 100)))
    run.released()
    return run.end()


# ------------------------------------------------------------------------------- caps


@tampered("cap-exceeded", silo="s1")
def a_run_above_the_cap() -> Evidence:
    """Silo s1's records may cost 0.1 in all, and it takes part in spite of that."""
    return run_of(instead("s1", e.Opened, changed(cap_epsilon=0.1)))


def raised(
    *, cap: float = 8.0, by: str = "", at: int = 0, old: float | None = None
) -> Evidence:
    """A run in which silo s1's cap is raised to 9 after round 1, as entry 7."""
    run = Run(found(), cap=cap)
    run.released()
    was = cap if old is None else old
    run.write("s1", cap_changed(run, "s1", was, 9.0, by=by, at=at))
    run.released()
    run.released()
    return run.end()


@tampered("cap-unsigned", silo="s1", entry=7)
def a_cap_raised_by_the_aggregator() -> Evidence:
    """Silo s1's cap is raised with the aggregator's signature."""
    return raised(by=HUB)


@tampered("cap-unsigned", silo="s1", entry=7)
def a_cap_raised_by_an_old_signature() -> Evidence:
    """Silo s1's cap is raised by what its operator signed for entry 2, and withdrew."""
    return raised(at=2)


@tampered("cap-unsigned", silo="s1", entry=7)
def a_cap_raised_from_another() -> Evidence:
    """Silo s1's operator signed that the cap goes from 1 to 9; it was 8."""
    return raised(old=1.0)


@tampered("cap-exceeded", silo="s1", also={"cap-unsigned"})
def a_cap_raised_by_nobody_and_used() -> Evidence:
    """Silo s1's cap of 0.1 is raised with the aggregator's signature, and then used."""
    run = Run(found(), cap=0.1)
    run.write("s1", cap_changed(run, "s1", 0.1, 9.0, by=HUB))
    for name in ("s0", "s2", "s3"):
        run.write(name, cap_changed(run, name, 0.1, 9.0))
    run.released()
    return run.end()


@tampered("cap-exceeded", silo="s1")
def a_second_charter_above_the_cap() -> Evidence:
    """Silo s1 takes part in a second run, for which its cap of 1 doesn't suffice: from
    there on the filter counts, and both plans whole."""
    before = Run(
        found(rounds=2), writes=instead("s1", e.Opened, changed(cap_epsilon=1.0))
    )
    before.released()
    run = Run(found(rounds=2, predecessor=before.charter), chains=before.chains)
    run.released()
    return run.end()


# ---------------------------------------------------------------------------- epsilon


@tampered("claim-unsigned", silo="s1")
def a_claim_by_the_aggregator() -> Evidence:
    """The aggregator claims for silo s1."""
    evidence = honest()
    claim = signed_claim(
        claim_of(evidence.world.charter, "s1", evidence.chains["s1"]), HUB
    )
    evidence.files["claims/s1.claim"] = claim.to_bytes()
    return evidence


@tampered("claim-unsigned", silo="s2")
def another_silos_claim() -> Evidence:
    """The aggregator shows silo s1's claim for silo s2's."""
    evidence = honest()
    evidence.files["claims/s2.claim"] = evidence.files["claims/s1.claim"]
    return evidence


@tampered("claim-of-another-head", silo="s1")
def a_claim_of_an_earlier_head() -> Evidence:
    """The aggregator shows what silo s1 claimed after round 1."""
    run = Run(found())
    run.released()
    early = claim_of(run.charter, "s1", run.chains["s1"])
    run.released()
    run.released()
    evidence = run.end()
    evidence.files["claims/s1.claim"] = early.to_bytes()
    return evidence


@tampered("claim-of-another-head", silo="s1")
def a_claim_of_another_charter() -> Evidence:
    """Silo s1 signs its claim for another charter's run."""
    evidence = honest()
    claim = claim_of(evidence.world.charter, "s1", evidence.chains["s1"])
    other = found(rounds=9).charter.digest().hex()
    moved = signed_claim(claim.model_copy(update={"charter": other}), "s1")
    evidence.files["claims/s1.claim"] = moved.to_bytes()
    return evidence


def _stated(name: str, done: str, part: str, **fields: float) -> None:
    def make() -> Evidence:
        evidence = honest()
        claim: Claim = claim_of(evidence.world.charter, "s1", evidence.chains["s1"])
        stated = getattr(claim, part)
        moved = {k: getattr(stated, k) + v for k, v in fields.items()}
        lower = claim.model_copy(update={part: stated.model_copy(update=moved)})
        evidence.files["claims/s1.claim"] = signed_claim(lower, "s1").to_bytes()
        return evidence

    make.__name__, make.__doc__ = name, done
    tampered("epsilon-differs", silo="s1")(make)


_stated(
    "a_lifetime_that_cost_less",
    "Silo s1 claims a little less than all of its charges cost.",
    "lifetime",
    published=-1e-3,
)
_stated(
    "a_run_that_cost_less",
    "Silo s1 claims a little less than the charter's plan costs.",
    "run",
    published=-1e-3,
)
_stated(
    "a_figure_by_rdp_that_is_lower",
    "Silo s1 claims another bound by RDP than its charges have.",
    "lifetime",
    rdp=-0.05,
)
_stated(
    "a_larger_delta",
    "Silo s1 claims its run's epsilon at a larger delta than the charter's.",
    "run",
    delta=1e-5,
)


@tampered("epsilon-differs", silo="s0")
def a_charter_that_promises_more_than_its_noise() -> Evidence:
    """The charter names epsilon 0.5, and silo s0's noise gives more."""
    run = Run(found(noise=(1.0, 9.0, 9.0, 9.0), epsilon=0.5))
    run.released()
    return run.end()


@tampered("epsilon-differs", silo="s1")
def a_claim_without_the_run() -> Evidence:
    """Silo s1 claims that the run had no privacy to state."""
    evidence = honest()
    claim = claim_of(evidence.world.charter, "s1", evidence.chains["s1"])
    less = signed_claim(claim.model_copy(update={"run": None}), "s1")
    evidence.files["claims/s1.claim"] = less.to_bytes()
    return evidence
