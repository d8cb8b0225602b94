"""Tampered sums, agreements and adverts."""

from __future__ import annotations

from audit.forge import Evidence, Run
from audit.parties import HUB, found
from audit.tampered import (
    finish,
    frame,
    honest,
    published,
    put,
    republish,
    signed,
    tampered,
)

from fedit_secure.audit.bundle import round_name
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.states import Session
from fedit_secure.wire.codec import encode


@tampered("sum-missing", round=2)
def a_sum_left_out() -> Evidence:
    """The aggregator keeps the sum of round 2 to itself."""
    evidence = honest()
    del evidence.files[round_name(2, "sum.int32")]
    return evidence


@tampered("sum-missing", round=2)
def a_publication_left_out() -> Evidence:
    """The aggregator leaves out whom the sum of round 2 is over."""
    evidence = honest()
    del evidence.files[round_name(2, "published.frame")]
    return evidence


@tampered("sum-differs", round=2)
def a_sum_altered_after_the_run() -> Evidence:
    """The aggregator publishes another sum of round 2 than the silos have confirmed."""
    evidence = honest()
    total = published(evidence, 2).total.copy()
    total[0] += 1
    republish(evidence, 2, total=total)
    return evidence


@tampered("sum-differs", round=2)
def integers_that_were_not_published() -> Evidence:
    """The aggregator replaces the integers under the sum that it signed."""
    evidence = honest()
    total = published(evidence, 2).total.copy()
    total[0] += 1
    evidence.files[round_name(2, "sum.int32")] = total.astype("<i4").tobytes()
    return evidence


@tampered("sum-replayed", round=2)
def an_old_sum_published_again() -> Evidence:
    """The aggregator publishes the sum of round 1 again in round 2, and the silos confirm
    what they shouldn't: their updates of round 2 are nowhere."""
    run = Run(found())
    everybody = run.world.names
    run.released()
    old = dict(run.files)
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(everybody, agreed=everybody)
    for file in ("adverts.frame", "published.frame", "sum.int32"):
        run.put(file, old[round_name(1, file)])
    run.published = published(Evidence(run.world, {}, run.files), 1)
    run.confirm(everybody)
    run.close(everybody)
    run.released()
    return run.end()


@tampered("sum-too-small", round=2)
def a_sum_over_fewer_silos_than_the_minimum() -> Evidence:
    """Round 2's sum is over three silos, where the charter's minimum is four of five."""
    run = Run(found(silos=5, minimum=5))
    run.released()
    run.released(lost=["s4"])
    run.released()
    return run.end()


@tampered("sum-without-quorum", round=2)
def a_sum_that_two_of_four_agreed_on() -> Evidence:
    """Two silos agreed whom round 2's sum is over, where three must."""
    evidence = honest()
    republish(evidence, 2, agreements=published(evidence, 2).agreements[:2])
    return evidence


@tampered("sum-without-quorum", round=2)
def an_agreement_counted_twice() -> Evidence:
    """The aggregator counts silo s0's agreement twice."""
    evidence = honest()
    said = published(evidence, 2).agreements
    republish(evidence, 2, agreements=(said[0], *said[:2]))
    return evidence


@tampered("agreement-unsigned", round=2, silo="s3")
def an_agreement_by_the_aggregator() -> Evidence:
    """The aggregator agrees for silo s3 to round 2's sum, which three others did."""
    evidence = honest()
    said = list(published(evidence, 2).agreements)
    said[3] = signed(HUB, said[3])
    republish(evidence, 2, agreements=tuple(said))
    return evidence


@tampered("agreement-differs", round=2, silo="s3")
def an_agreement_on_other_silos() -> Evidence:
    """The aggregator showed silo s3 another set of survivors than the others."""
    evidence = honest()
    said = list(published(evidence, 2).agreements)
    said[3] = signed("s3", said[3], survivors_digest=m.silo_set((0, 1, 2)))
    republish(evidence, 2, agreements=tuple(said))
    return evidence


@tampered("sum-without-quorum", round=2)
def an_agreement_by_a_silo_that_was_not_there() -> Evidence:
    """Silo s3 makes the third of three agreements in round 2, and never advertised."""
    run = Run(found())
    run.released()
    run.charge(run.world.names)
    run.commit(run.world.names)
    there = ["s0", "s1", "s2"]
    attempt = run.attempt(there)
    attempt.mask(there)
    attempt.reveal(there)
    attempt.publish(there, agreed=["s0", "s1", "s3"])
    run.confirm(run.world.names)
    run.close(run.world.names, blind=["s3"])
    return run.end()


@tampered("agreement-differs", round=2)
def a_silo_in_the_sum_that_was_not_there() -> Evidence:
    """Round 2's sum is over silo s3 too, which never advertised: nobody saw its charge."""
    run = Run(found())
    run.released()
    run.charge(run.world.names)
    run.commit(run.world.names)
    attempt = run.attempt(["s0", "s1", "s2"])
    finish(run, attempt)
    return run.end()


@tampered("transcript-malformed", round=2)
def a_silo_that_is_in_the_sum_twice() -> Evidence:
    """The aggregator counts silo s3's update twice."""
    evidence = honest()
    republish(evidence, 2, contributors=(0, 1, 2, 3, 3))
    return evidence


@tampered("advert-missing", round=2)
def adverts_left_out() -> Evidence:
    """The aggregator leaves out who advertised in round 2, and with which ledgers."""
    evidence = honest()
    del evidence.files[round_name(2, "adverts.frame")]
    return evidence


@tampered("advert-unsigned", round=2, silo="s3")
def an_advert_by_the_aggregator() -> Evidence:
    """The aggregator signed silo s3's advert itself."""
    evidence = honest()
    shown = frame(evidence, 2, "adverts.frame")
    adverts = list(shown.adverts)
    adverts[3] = signed(HUB, adverts[3])
    put(evidence, 2, "adverts.frame", signed(HUB, shown, adverts=tuple(adverts)))
    return evidence


@tampered("transcript-unsigned", round=2)
def adverts_that_nobody_stands_for() -> Evidence:
    """The aggregator signs the adverts with a key that it can deny."""
    evidence = honest()
    shown = frame(evidence, 2, "adverts.frame")
    put(evidence, 2, "adverts.frame", signed("stranger", shown))
    return evidence


@tampered("transcript-unsigned", round=2)
def a_sum_that_nobody_stands_for() -> Evidence:
    """The aggregator signs the sum with a key that it can deny."""
    evidence = honest()
    republish(evidence, 2, by="stranger")
    return evidence


@tampered("transcript-malformed", round=2)
def a_publication_cut_short() -> Evidence:
    """The aggregator hands out half of a frame."""
    evidence = honest()
    name = round_name(2, "published.frame")
    evidence.files[name] = evidence.files[name][: len(evidence.files[name]) // 2]
    return evidence


@tampered("sum-differs", round=2)
def a_sum_cut_short() -> Evidence:
    """The aggregator hands out a sum that lacks its last coordinate."""
    evidence = honest()
    name = round_name(2, "sum.int32")
    evidence.files[name] = evidence.files[name][:-4]
    return evidence


@tampered("transcript-malformed", round=2)
def another_frame_in_a_frames_place() -> Evidence:
    """The aggregator hands out the adverts in the place of the certificate."""
    evidence = honest()
    put(evidence, 2, "certificate.frame", frame(evidence, 2, "adverts.frame"))
    return evidence


@tampered("sum-replayed", round=2)
def a_sum_under_a_context_of_another_round() -> Evidence:
    """The aggregator publishes round 2's sum as one of round 3."""
    run = Run(found())
    everybody = run.world.names
    run.released()
    run.charge(everybody)
    run.commit(everybody)
    where = (run.digest, 3, 1, run.state.digest())
    attempt = run.attempt(everybody)
    attempt.session = Session(run.params, run.cohorts.roster(run.round), *where)
    adverts = tuple(
        signed(run.world.names[a.silo], a, ctx=attempt.session.ctx)
        for a in attempt.adverts.adverts
    )
    attempt.adverts = signed(
        HUB, attempt.adverts, ctx=attempt.session.ctx, adverts=adverts
    )
    run.put("adverts.frame", encode(attempt.adverts))
    finish(run, attempt)
    run.released()
    return run.end()
