"""Rounds that are drawn for some of the silos, and in which others have a part."""

from __future__ import annotations

from audit.forge import Evidence, Run
from audit.parties import found
from audit.tampered import frame, put, signed, tampered

from fedit_secure.federation.cohort import Cohorts
from fedit_secure.secagg import messages as m


class Picked(Cohorts):
    """An aggregator's own choice, in the place of what the charter draws."""

    def of(self, round: int) -> tuple[int, ...]:
        drawn = super().of(round)
        if round != 2:
            return drawn
        others = [silo for silo in range(6) if silo not in drawn]
        return tuple(sorted((*others, *drawn[:2])))


def drawn_run() -> Run:
    """Six silos, of which each round is drawn for four."""
    return Run(found(silos=6, rounds=3, per_round=4))


def outsider(run: Run, round: int) -> str:
    """The first silo that a round isn't drawn for."""
    drawn = Cohorts(run.charter).names(round)
    return next(name for name in run.world.names if name not in drawn)


@tampered("confirmation-undrawn", round=2, also={"charge-undrawn"})
def a_cohort_that_the_aggregator_picked() -> Evidence:
    """In round 2 the aggregator takes two silos that aren't drawn in the place of two that
    are, and all of the six play along."""
    run = drawn_run()
    run.cohorts = Picked(run.charter)
    for _ in range(3):
        run.released()
    return run.end()


@tampered("confirmation-undrawn", round=2)
def a_confirmation_by_a_silo_that_isnt_drawn() -> Evidence:
    """A silo that sits round 2 out confirms it beside those that are drawn."""
    run = drawn_run()
    for _ in range(3):
        run.released()
    evidence, name = run.end(), outsider(run, 2)
    said = frame(evidence, 2, "certificate.frame").confirmations
    more = signed(name, said[0], silo=run.charter.silo_index(name))
    put(evidence, 2, "certificate.frame", m.RoundCertificate(2, (*said, more)))
    return evidence


@tampered("sum-undrawn", round=2, also={"charge-undrawn"})
def a_sum_with_a_silo_that_isnt_drawn() -> Evidence:
    """A silo that sits round 2 out is in its sum; those that are drawn confirm it."""
    run = drawn_run()
    run.released()
    drawn = run.drawn
    there = sorted((*drawn, outsider(run, 2)))
    run.charge(there)
    run.commit(there)
    attempt = run.attempt(there)
    attempt.mask(there)
    attempt.reveal(there)
    attempt.publish(there, agreed=there)
    run.confirm(drawn)
    run.close(there)
    run.released()
    return run.end()


@tampered("charge-undrawn", round=3)
def a_charge_for_a_round_that_isnt_drawn() -> Evidence:
    """A silo tunes for round 3, which it sits out; its update is in no sum."""
    run = drawn_run()
    run.released()
    run.released()
    name = outsider(run, 3)
    run.charge([name])
    run.commit([name])
    run.released()
    return run.end()
