"""Tampered evaluations: what was charged for them, and what the sum says of them."""

from __future__ import annotations

from typing import Any

from audit.claiming import claim_of
from audit.claiming import signed as signed_claim
from audit.forge import Evidence, Run
from audit.parties import found
from audit.tampered import changed, instead, published, republish, tampered

from fedit_secure.audit.bundle import round_name
from fedit_secure.federation.claim import Stated
from fedit_secure.federation.evaluation import Evaluation
from fedit_secure.privacy import events as e
from fedit_secure.privacy.accountant import epsilons

TERMS = Evaluation(clip=10.0, noise_multiplier=6.0)


def evaluated(**options: Any) -> Evidence:
    """Two rounds in which all silos but the first evaluate, and somebody may lie."""
    run = Run(found(rounds=2, evaluation=TERMS), **options)
    run.released()
    run.released()
    return run.end()


def charged(silo: str, **fields: float) -> Evidence:
    """A silo enters another evaluation than the charter's, in every charge."""
    lie = {"clip": 10.0, "noise_multiplier": 6.0, "expected": 20} | fields
    wrong = changed(evaluation=e.ChargedEvaluation.model_validate(lie))
    return evaluated(writes=instead(silo, e.Intent, wrong))


@tampered("plan-differs", silo="s1")
def an_evaluation_that_was_never_charged() -> Evidence:
    """Silo s1 releases a figure of its held-out records, and charges its tuning alone."""
    return evaluated(writes=instead("s1", e.Intent, changed(evaluation=None)))


@tampered("plan-differs", silo="s0")
def an_evaluation_that_nobody_asked_for() -> Evidence:
    """Silo s0 isn't to evaluate, and charges that it does."""
    return charged("s0")


@tampered("plan-differs", silo="s2")
def an_evaluation_with_less_noise() -> Evidence:
    """Silo s2 adds half the noise to its figure, and says so."""
    return charged("s2", noise_multiplier=3.0)


@tampered("plan-differs", silo="s2")
def an_evaluation_clipped_elsewhere() -> Evidence:
    """Silo s2 clips at 20 nats, and says so."""
    return charged("s2", clip=20.0)


@tampered("plan-differs", silo="s2")
def an_evaluation_divided_by_another_count() -> Evidence:
    """Silo s2 divides by the number of those that it has, and so tells it."""
    return charged("s2", expected=19)


@tampered("sum-differs", round=2)
def a_better_figure_than_was_summed() -> Evidence:
    """The aggregator improves the figure of round 2, and nothing else of the sum."""
    evidence = evaluated()
    total = published(evidence, 2).total.copy()
    total[-1] -= 1000
    republish(evidence, 2, total=total)
    return evidence


@tampered("sum-differs", round=1)
def a_sum_without_its_figure() -> Evidence:
    """The aggregator cuts the figure off the sum of round 1."""
    evidence = evaluated()
    total = published(evidence, 1).total[:-1]
    evidence.files[round_name(1, "sum.int32")] = total.astype("<i4").tobytes()
    return evidence


@tampered("epsilon-differs", silo="s1")
def a_claim_that_leaves_the_evaluation_out() -> Evidence:
    """Silo s1 claims what its tuning costs, as if the figures were free."""
    evidence = evaluated()
    charter = evidence.world.charter
    claim = claim_of(charter, "s1", evidence.chains["s1"])
    tuning = charter.plan_for("s0")  # the same but for the evaluation
    assert tuning.evaluation is None
    free = Stated.of(1e-5, epsilons(tuning.run_event(), 1e-5))
    lower = claim.model_copy(update={"run": free})
    evidence.files["claims/s1.claim"] = signed_claim(lower, "s1").to_bytes()
    return evidence


@tampered("epsilon-differs", silo="s1", also={"cap-exceeded"})
def a_charter_that_counts_the_tuning_alone() -> Evidence:
    """The charter's epsilon is that of its tuning, and its figures cost more."""
    tuning = found(rounds=2).charter.plan_for("s0").epsilons().published
    run = Run(found(rounds=2, epsilon=tuning, evaluation=TERMS), cap=tuning)
    run.released()
    run.released()
    return run.end()
