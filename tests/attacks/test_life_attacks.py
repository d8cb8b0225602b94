"""Attempts that fail, and updates that live on: at most one sum of one round comes out."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from playbook import (
    Play,
    assert_blamed,
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_one_sum,
    assert_released,
    cast,
    opened,
)

from fedit_secure.errors import FaultyAggregator, FuseBlown, ProtocolError
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.protocol import silo_step
from fedit_secure.storage.life import FRESH, MASKED, REVEALED, VOIDED, Life, burn


def states(play: Play) -> list[str]:
    return [play.cast.lives[i].state for i in range(play.cast.params.silos)]


def kill(play: Play, *silos: int) -> None:
    """Their processes die: nothing reaches them any more, and their links break."""
    for silo in silos:
        play.restart(silo)
        play.aggregate(m.Lost(silo), sender=silo)


def test_killing_one_of_five_in_the_masking_window():
    play = Play(5).drop(m.MaskedUpload, sender=2).run()
    assert_released(play, [0, 1, 3, 4])


def test_advert_that_is_taken_back():
    """A silo advertises and closes the attempt at once, to be waited for in each phase."""
    play = Play(5)

    def both(advert):
        return [advert, play.by_silo(0, m.VoidStatement(0, play.session.ctx))]

    play.alter(m.Advert, both, sender=0).run(deadlines=False)
    assert not play.got(m.AdvertSet, 0)
    assert_released(play, [1, 2, 3, 4])


def test_killing_two_of_five_after_share_and_before_mask_costs_nothing():
    play = Play(5).drop(m.ShareBundle, sender=3).drop(m.ShareBundle, sender=4)
    play.run(deadlines=False)
    kill(play, 3, 4)
    play.run()
    assert play.aggregator == s.Ended(
        "only 3 silos answered in time while sharing", free=True
    )
    assert states(play) == [FRESH] * 5
    assert_nothing_opened(play)
    assert not play.heard(m.MaskedUpload)
    updates = {i: x.copy() for i, x in play.cast.updates.items()}
    again = play.again().run()
    assert_released(again, range(5))
    np.testing.assert_array_equal(again.released.total, sum(updates.values()))


def test_killing_two_of_five_between_the_sets_costs_the_dead_nothing_either():
    """All five dealt; the aggregator has sealed U2, and two die before they mask."""
    play = Play(5).run(until=s.Masking)
    kill(play, 3, 4)
    play.run()
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free  # by certificate: three had masked
    assert states(play)[:3] == [FRESH] * 3
    assert_nothing_opened(play)
    assert_released(play.again().run(), range(5))


def test_killing_two_of_five_after_mask_is_voided_by_certificate():
    play = Play(5)
    play.drop(m.MaskedUpload, sender=3).drop(m.MaskedUpload, sender=4)
    play.run(until=s.Voiding)
    kill(play, 3, 4)
    assert set(states(play)) == {MASKED, VOIDED}
    play.run(deadlines=False)
    # Five were asked, three are alive, and the two that were killed have restarted.
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free
    proof = next(
        x.message for x in play.shown if isinstance(x.message, m.VoidCertificate)
    )
    assert len(proof.statements) == play.cast.params.threshold
    assert states(play) == [FRESH] * 5
    assert_nothing_opened(play)
    again = play.again().run()
    assert_released(again, range(5))
    assert_one_sum([play, again])


def test_void_without_enough_signers_is_not_free():
    play = Play(5)
    for silo in (3, 4):
        play.drop(m.MaskedUpload, sender=silo).drop(m.VoidRequest, to=silo)
    play.run()
    assert isinstance(play.aggregator, s.Ended)
    assert not play.aggregator.free
    assert states(play) == [VOIDED] * 3 + [MASKED] * 2
    with pytest.raises(FuseBlown, match="voided"):
        burn(play.cast.lives[0], replace(play.session, attempt=2).fuse("advertise"))
    assert_nothing_opened(play)


def test_update_reused_without_a_certificate():
    """Masked, and invited to the next attempt all the same."""
    play = Play(5).run(until=s.Agreeing)
    again = play.again().run()
    for silo in range(5):
        assert isinstance(again.errors[silo], FuseBlown)
        assert "masked, so it enters no attempt" in str(again.errors[silo])
    assert not again.heard(m.Advert)


def test_update_reused_in_a_later_round():
    first = Play(5).run()
    assert_released(first, range(5))
    play = Play(first.cast, round=2).run()
    for silo in range(5):
        assert isinstance(play.errors[silo], FuseBlown)
        assert "masked in an earlier round" in str(play.errors[silo])
    assert not play.heard(m.MaskedUpload)


def test_another_update_in_the_same_round():
    """A silo noises again after a void: two draws on one charge. The digest differs."""
    play = Play(5)
    play.drop(m.MaskedUpload, sender=3).drop(m.MaskedUpload, sender=4).run()
    assert play.aggregator.free
    play.cast.updates[0] = play.cast.updates[0] ^ 1
    again = play.again().run()
    assert isinstance(again.errors[0], FuseBlown)
    assert "one update" in str(again.errors[0])
    assert not again.heard(m.MaskedUpload, 0)


def test_exclude_then_retry():
    """The release over five comes out; the aggregator claims that it failed, and wants the
    four others' sum: the difference is the fifth's update."""
    first = Play(5).run(until=s.Published)
    request = first.by_aggregator(m.VoidRequest(first.session.ctx))
    for silo in range(5):
        with pytest.raises(ProtocolError, match="Revealed takes no VoidRequest"):
            silo_step(first.states[silo], request, first.rand)
        with pytest.raises(FuseBlown, match="revealed in this attempt"):
            first.void(silo)
    second = first.again(invited=range(4)).run()
    assert all(isinstance(second.errors[i], FuseBlown) for i in range(4))
    assert_one_sum([first, second])
    assert opened(second) == set()


def test_exclude_then_retry_with_the_certificate_first():
    """The other way round: void, get the certificate, and then use the old attempt."""
    play = Play(5).run(until=s.Agreeing)
    masked = dict(play.states)
    u3 = next(x.message for x in play.mail if isinstance(x.message, m.SurvivorSet))
    play.mail.clear()
    request = play.by_aggregator(m.VoidRequest(play.session.ctx))
    for silo in range(5):
        play.step(silo, request)
    words = play.heard(m.VoidStatement)
    assert len(words) == 5
    proof = m.VoidCertificate(play.session.ctx, tuple(words[:4]))
    for silo in range(5):
        play.step(silo, proof)
    assert states(play) == [FRESH] * 5
    # Even a clone of the memory from before finds the disk changed.
    agreed = [silo_step(masked[i], u3, play.rand) for i in range(5)]
    quorum = m.AgreementSet(
        play.session.ctx, tuple(effects[0].message for _, effects in agreed)
    )
    for silo, (state, _) in enumerate(agreed):
        with pytest.raises(ProtocolError, match="Voided takes no"):
            silo_step(play.states[silo], u3, play.rand)
        _, effects = silo_step(state, quorum, play.rand)
        with pytest.raises(FuseBlown):
            play.perform(silo, effects)
    again = play.again().run()
    assert_released(again, range(5))
    assert_one_sum([play, again])


def test_void_then_reveal():
    """Agreed, then voided at its own deadline: no quorum opens it any more."""
    play = Play(5).run(until=s.Revealing)
    agreed = play.states[0]
    play.step(0, m.Deadline())
    assert isinstance(play.states[0], s.Voided)
    assert play.cast.lives[0].state == VOIDED
    play.run()
    assert not play.heard(m.Reveal, 0)
    assert play.released.contributors == (0, 1, 2, 3, 4)  # four others suffice
    quorum = play.got(m.AgreementSet, 1)[0]
    _, effects = silo_step(agreed, quorum, play.rand)
    with pytest.raises(FuseBlown, match="closed"):
        play.perform(0, effects)


@pytest.mark.parametrize(
    "phase", [s.Gathering, s.Sharing, s.Masking, s.Agreeing, s.Revealing]
)
def test_void_from_every_state_before_reveal(phase):
    play = Play(5).run(until=phase)
    play.step(0, play.by_aggregator(m.VoidRequest(play.session.ctx)))
    assert isinstance(play.states[0], s.Voided)
    assert play.session.ctx in play.cast.lives[0].closed
    # The secrets went with the old state.
    assert [f.name for f in fields(s.Voided)] == ["statement"]
    play.run()
    assert_nothing_leaked(play)


def test_void_request_signed_by_nobody_or_for_another_attempt():
    play = Play(5).run(until=s.Agreeing)
    with pytest.raises(FaultyAggregator, match="signature on VoidRequest"):
        silo_step(play.states[0], m.VoidRequest(play.session.ctx), play.rand)
    other = play.by_aggregator(m.VoidRequest(b"o" * 32))
    with pytest.raises(FaultyAggregator, match="another attempt"):
        silo_step(play.states[0], other, play.rand)


def test_void_after_sitting_out():
    """A silo that refused to go on, and one that was never invited, sign too."""
    play = Play(5, invited=[0, 1, 2, 3])
    play.alter(m.ShareSet, lambda u2: replace(u2, signature=bytes(64)), to=0).run()
    assert isinstance(play.errors[0], FaultyAggregator)
    # U2 was all four; only three masked, one short.
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free
    assert {w.silo for w in play.heard(m.VoidStatement)} == {0, 1, 2, 3, 4}
    again = play.again().run()
    assert_released(again, range(5))
    assert_one_sum([play, again])


def test_void_statement_evicts_nobody_else():
    play = Play(5)
    forged = m.VoidStatement(1, play.session.ctx)
    play.alter(m.Advert, lambda a: [a, play.by_silo(3, forged)], sender=3).run()
    assert_blamed(play, ProtocolError, None, "signature on VoidStatement")
    assert 1 in play.released.contributors


def test_silo_that_voids_in_the_middle_is_not_waited_for():
    play = Play(5).run(until=s.Agreeing)
    play.step(2, m.Deadline())
    play.run(deadlines=False)
    assert isinstance(play.aggregator, s.Certified)
    assert play.released.contributors == (0, 1, 2, 3, 4)
    assert not play.blame


def words(play: Play, silos, ctx=None) -> tuple[m.VoidStatement, ...]:
    ctx = ctx or play.session.ctx
    return tuple(play.by_silo(i, m.VoidStatement(i, ctx)) for i in silos)


def test_void_certificates_that_are_none():
    play = Play(5)
    who, ctx = play.cast, play.session.ctx
    good = m.VoidCertificate(ctx, words(play, range(4)))
    checks.void_certificate(who.roster, who.params, good)
    forged = (*good.statements[:3], replace(good.statements[3], signature=bytes(64)))
    bad = {
        "too few": good.statements[:3],
        "a twin": (*good.statements[:3], good.statements[0]),
        "another attempt": (*good.statements[:3], *words(play, [3], b"o" * 32)),
        "unsigned": forged,
        "a sybil": (*good.statements[:3], replace(good.statements[3], silo=7)),
        "empty": (),
    }
    proofs = [m.VoidCertificate(ctx, statements) for statements in bad.values()]
    for proof in (*proofs, m.VoidCertificate(b"o" * 32, good.statements)):
        with pytest.raises(FaultyAggregator):
            checks.void_certificate(who.roster, who.params, proof)


@pytest.mark.parametrize("silos", [3, 4, 5, 7, 10])
def test_void_certificate_leaves_too_few_to_open(silos):
    """The claim behind it: N - t + c < t, and liars sign the void and reveal as well."""
    play = Play(silos)
    p = play.cast.params
    assert p.silos - p.threshold + p.corrupt < p.threshold
    play.run(until=s.Revealing)
    honest = range(p.corrupt, p.silos)
    for silo in [*honest][: p.threshold - p.corrupt]:  # with the liars: t signers
        play.step(silo, play.by_aggregator(m.VoidRequest(play.session.ctx)))
    liars = range(p.corrupt)
    proof = words(play, liars) + tuple(play.heard(m.VoidStatement))
    checks.void_certificate(
        play.cast.roster, p, m.VoidCertificate(play.session.ctx, proof)
    )
    play.run()
    assert_nothing_opened(play, corrupt=liars)


def test_epsilon_burn():
    """Failing attempts before Reveal, over and over: not one update is lost by it."""
    who = cast(5)
    play = Play(who)
    for attempt in range(1, 6):
        play = Play(who, attempt=attempt)
        kind = (m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement)[attempt % 4]
        play.drop(kind, sender=3).drop(kind, sender=4).run()
        assert isinstance(play.aggregator, s.Ended)
        assert play.aggregator.free
        assert states(play) == [FRESH] * 5
        assert_nothing_opened(play)
    assert_released(Play(who, attempt=6).run(), range(5))


def test_stall_before_the_first_reveal_is_free_too():
    """The quorum is out, nobody's reveal arrives: silos void at their own deadline."""
    play = Play(5).drop(m.AgreementSet).run()
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free
    assert states(play) == [FRESH] * 5
    assert_nothing_opened(play)
    assert_released(play.again().run(), range(5))


def test_stall_after_reveals_costs_those_who_revealed():
    play = Play(5)
    for silo in (2, 3, 4):
        play.drop(m.AgreementSet, to=silo)
    play.run()
    assert isinstance(play.aggregator, s.Ended)
    assert not play.aggregator.free
    assert states(play)[:2] == [REVEALED] * 2
    assert_nothing_opened(play)


def test_void_of_an_attempt_of_an_earlier_round():
    """Revealed in round 1, and in round 2 now: the promise would be a lie."""
    first = Play(4).run()
    second = first.next_round().run()
    assert_released(second, range(4))
    first.records.clear()
    for silo in range(4):
        with pytest.raises(FuseBlown, match="revealed in this attempt"):
            first.void(silo)


def test_restarted_silo_never_reenters_an_attempt():
    play = Play(4).run(until=s.Sharing)
    play.restart(0)
    offer = play.got(m.Offer, 0)[0]
    fresh = Play(play.cast, seed=8)
    fresh.step(0, offer)
    assert isinstance(fresh.errors[0], FuseBlown)
    assert play.cast.lives[0] == Life.from_bytes(play.cast.lives[0].to_bytes())
    assert not fresh.heard(m.Advert)
