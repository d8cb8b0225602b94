"""Silos whose ledgers don't say what they did in a sum."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from audit.forge import Evidence, Run, Writes
from audit.parties import LAYOUT, drawn, found
from audit.tampered import changed, finish, instead, run_of, tampered, unwritten

from fedit_secure.federation.update import from_float32
from fedit_secure.privacy import events as e


@tampered("entry-impossible", silo="s1", entry=7)
def a_round_that_was_never_charged() -> Evidence:
    """Silo s1 leaves its charge of round 2 out of its ledger, and what follows is as it
    was."""
    return run_of(instead("s1", e.Intent, unwritten, nth=2))


@tampered("intent-missing", round=2, silo="s1")
def a_round_that_the_ledger_never_knew() -> Evidence:
    """Silo s1 takes part in round 2, and its ledger has nothing of it."""

    def writes(silo: str, event: e.Event) -> Iterable[e.Event | bytes]:
        nonlocal second
        if silo == "s1":
            second = getattr(event, "round", 2 if second else 1) == 2
        return [] if silo == "s1" and second else [event]

    second = False
    return run_of(writes)


@tampered("intent-missing", round=2, silo="s1")
def a_charge_after_the_deed() -> Evidence:
    """In round 2, silo s1 tunes and advertises, and enters its charge only then."""
    run = Run(found())
    everybody = run.world.names
    run.released()
    before = run.chains["s1"].head()
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody, heads={"s1": before})
    finish(run, attempt)
    run.released()
    return run.end()


@tampered("intent-on-another-state", round=2, silo="s1")
def a_charge_for_another_adapter() -> Evidence:
    """Silo s1 tunes another adapter in round 2 than the one that round 1 ended in."""
    other = from_float32(LAYOUT, np.ones(24, np.float32)).digest().hex()
    return run_of(instead("s1", e.Intent, changed(state_digest=other), nth=2))


@tampered("update-uncommitted", round=2, silo="s1")
def an_update_entered_after_the_deed() -> Evidence:
    """In round 2, silo s1 advertises and masks before its ledger has an update: what it
    masks may be anything."""
    run = Run(found())
    everybody = run.world.names
    run.released()
    run.charge(everybody)
    early = run.chains["s1"].head()
    run.commit(everybody)
    attempt = run.attempt(everybody, heads={"s1": early})
    finish(run, attempt)
    run.released()
    return run.end()


@tampered("entry-impossible", silo="s1", entry=8)
def an_update_that_the_ledger_lacks() -> Evidence:
    """Silo s1's update of round 2 is in the sum, and its ledger has none."""
    return run_of(instead("s1", e.Committed, unwritten, nth=2))


def unmasked(silo: str, round: int) -> Writes:
    """A silo that doesn't write what it does in one round's attempt."""

    def writes(name: str, event: e.Event) -> Iterable[e.Event | bytes]:
        nonlocal now
        now = getattr(event, "round", now)
        quiet = isinstance(event, e.Masked | e.Revealed) and now == round
        return [] if name == silo and quiet else [event]

    now = 0
    return writes


@tampered("mask-unrecorded", round=2, silo="s1")
def a_mask_that_the_ledger_lacks() -> Evidence:
    """Silo s1 doesn't write that it masked its update of round 2, so that it could again."""
    return run_of(unmasked("s1", 2))


@tampered("void-in-sum", round=2, silo="s1")
def an_attempt_renewed_although_it_ended_in_a_sum() -> Evidence:
    """Silo s1 writes that round 2's attempt was voided by a quorum, and masks its update
    again; but the attempt ended in a sum that holds it."""

    def lie(event: e.Revealed) -> Iterable[e.Event]:
        proof = drawn("a certificate that never was").hex()
        again = drawn("another attempt").hex()
        return [
            e.Voided(ctx=event.ctx),
            e.Renewed(ctx=event.ctx, certificate=proof),
            e.Masked(ctx=again),
            e.Revealed(ctx=again),
        ]

    return run_of(instead("s1", e.Revealed, lie, nth=2))


@tampered("void-in-sum", round=2)
def a_sum_of_an_attempt_that_a_quorum_voided() -> Evidence:
    """Three of four silos voided round 2's attempt, and it ended in a sum all the same."""
    run = Run(found())
    everybody = run.world.names
    run.released()
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.void(["s0", "s1", "s2"])
    attempt.reveal(["s3"])
    attempt.publish(everybody, agreed=everybody)
    run.confirm(everybody)
    run.close(everybody)
    run.released()
    return run.end()


def _release(name: str, done: str, **fields: object) -> None:
    def make() -> Evidence:
        return run_of(instead("s1", e.Released, changed(**fields), nth=2))

    make.__name__, make.__doc__ = name, done
    tampered("release-differs", round=2, silo="s1")(make)


_release(
    "a_release_of_another_sum",
    "Silo s1 writes another release of round 2 into its ledger.",
    release_digest="0a" * 32,
)
_release(
    "a_release_into_another_state",
    "Silo s1 writes that round 2 ended in another state.",
    state_digest="0a" * 32,
)
_release(
    "a_release_over_other_silos",
    "Silo s1 writes that round 2's sum was over fewer silos.",
    contributors=("s1", "s2", "s3"),
)
_release(
    "a_release_of_other_integers",
    "Silo s1 writes another digest of round 2's sum.",
    sum_digest="0a" * 32,
)


@tampered("release-differs", round=2, silo="s1")
def a_release_called_a_skipped_round() -> Evidence:
    """Silo s1 writes that round 2 brought no sum."""
    lie = lambda r: [e.Aborted(charter=r.charter, round=r.round)]  # noqa: E731
    return run_of(instead("s1", e.Released, lie, nth=2))


@tampered("release-unknown", round=2, silo="s1")
def a_skipped_round_called_a_release() -> Evidence:
    """Silo s1 writes that round 2 ended in a sum, which was skipped."""

    def lie(event: e.Aborted) -> Iterable[e.Event]:
        return [
            e.Released(
                charter=event.charter,
                round=event.round,
                release_digest="0a" * 32,
                state_digest=run.state.digest().hex(),
            )
        ]

    run = Run(found(), writes=instead("s1", e.Aborted, lie))
    run.released()
    run.skipped()
    run.released()
    return run.end()
