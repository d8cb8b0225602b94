"""A round is drawn for some of the silos: whoever else has a part in it, has none.

Five silos, of which the round is drawn for 0, 2 and 4; one of them may collude, so that all
three are a quorum. The others help the aggregator as far as their keys go.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from playbook import (
    Play,
    assert_blamed,
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_refused,
    assert_released,
    cast,
)

from fedit_secure.errors import FaultyAggregator, ProtocolError
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.params import SecAggParams

DRAWN = (0, 2, 4)
NONE = "no silo has number 1 here"


def play(silos: int = 5, drawn: tuple[int, ...] = DRAWN, **options) -> Play:
    return Play(cast(silos, drawn=drawn, **options))


def outside(a_play: Play, kind: type, silo: int = 1):
    """A message of silo 0's as another silo would have sent it, under its own signature."""
    return a_play.by_silo(silo, replace(a_play.heard(kind, 0)[0], silo=silo))


def test_the_drawn_silos_release_their_sum():
    one = play().run()
    assert_released(one, DRAWN)
    assert one.cast.params.threshold == 3
    # Those that sit it out are told how it ended, and are asked for nothing.
    assert one.certificates.keys() == {0, 1, 2, 3, 4}
    assert not {mail.sender for mail in one.sent} - set(DRAWN)
    told = [mail.message for mail in one.shown if mail.to in (1, 3)]
    assert all(isinstance(message, m.RoundCertificate) for message in told)


def test_a_drawn_silo_may_drop_out_where_the_cohort_has_room():
    """Six of eight, of which five must be there: one uploads nothing, and no other silo
    stands in for it."""
    one = play(8, (0, 1, 3, 4, 6, 7), corrupt=2, seed=2)
    assert one.cast.params.threshold == 5
    one.drop(m.MaskedUpload, sender=3).run()
    assert_released(one, (0, 1, 4, 6, 7))


def test_an_outsider_in_the_set_of_adverts():
    """small_cohort, stacked_cohort: an accomplice joins the drawn silos, or takes the place
    of one of them."""
    for without in ([], [4]):
        one = play()

        def stacked(u1, one=one, without=without):
            adverts = [a for a in u1.adverts if a.silo not in without]
            adverts.append(outside(one, m.Advert))
            return replace(u1, adverts=tuple(sorted(adverts, key=lambda a: a.silo)))

        one.forge(m.AdvertSet, stacked).run()
        for silo in DRAWN:
            assert_refused(one, silo, FaultyAggregator, "aggregator", NONE)
        assert_nothing_opened(one)


def test_an_outsider_among_the_agreements():
    """Silo 4 doesn't agree, and an accomplice signs in its place."""
    one = play()

    def completed(quorum):
        kept = tuple(a for a in quorum.agreements if a.silo != 4)
        return replace(quorum, agreements=(*kept, outside(one, m.Agreement)))

    one.alter(m.AgreementSet, completed).run()
    for silo in DRAWN:
        assert_refused(one, silo, FaultyAggregator, "aggregator", NONE)
    assert not one.heard(m.Reveal)
    assert_nothing_opened(one)


def test_exclude_then_retry_with_the_outsiders_voids():
    """Two accomplices close an attempt beside one drawn silo: three statements, of which one
    counts. So nobody's masked update is free for another sum."""
    one = play().drop(m.MaskedUpload, sender=4).run(until=s.Voiding)
    words = [one.by_silo(i, m.VoidStatement(i, one.session.ctx)) for i in (0, 1, 3)]
    proof = m.VoidCertificate(one.session.ctx, tuple(words))
    who, sizes = one.cast.roster, one.cast.params
    with pytest.raises(FaultyAggregator, match=NONE):
        checks.void_certificate(who, sizes, proof)
    assert_nothing_leaked(one)
    own = [one.by_silo(i, m.VoidStatement(i, one.session.ctx)) for i in DRAWN]
    checks.void_certificate(who, sizes, m.VoidCertificate(one.session.ctx, tuple(own)))


def test_two_certificates_by_cohorts_that_overlap():
    """The round is confirmed by all that are drawn. What two accomplices and one of them say
    of it, and what t of another cohort say, ends nothing."""
    one = play().run()
    said = {word.silo: word for word in one.heard(m.Confirmation)}
    skip = replace(said[0], release_digest=b"", state_digest=one.session.state_digest)
    others = [one.by_silo(i, replace(skip, silo=i)) for i in (0, 1, 3)]
    who, t = one.cast.roster, one.cast.params.threshold
    where = (who, one.cast.charter)
    checks.certified(*where, one.certificates[1], t)
    with pytest.raises(FaultyAggregator, match=NONE):
        checks.certified(*where, m.RoundCertificate(1, tuple(others)), t)
    # Nor do those that are drawn end a round that isn't drawn for them.
    next_round = replace(who, drawn=frozenset({1, 2, 3}))
    again = [one.by_silo(i, replace(said[i], round=2)) for i in DRAWN]
    with pytest.raises(FaultyAggregator, match="no silo has number 0 here"):
        checks.certified(
            next_round, one.cast.charter, m.RoundCertificate(2, tuple(again)), t
        )


def test_an_outsiders_messages_at_the_aggregator():
    """It is lost to the attempt that it never was in, and nobody else is."""
    one = play().run(until=s.Sharing)
    one.aggregate(outside(one, m.Advert), sender=1)
    assert_blamed(one, ProtocolError, None, NONE)
    one.run()
    one.errors.pop(1, None)
    assert_released(one, DRAWN)


def test_sizes_of_another_cohort():
    """N is the cohort's in every rule, so no session can be had on the roster's sizes."""
    whole, some = cast(5), cast(5, drawn=DRAWN)
    assert (whole.params.threshold, some.params.threshold) == (4, 3)
    assert some.params.magnitude == (2**23 - 1) // 3
    where = (b"R" * 32, 1, 1, b"d" * 32)
    for params, roster in ((whole.params, some.roster), (some.params, whole.roster)):
        with pytest.raises(ValueError, match="aren't those of its roster"):
            s.Session(params, roster, *where)
    with pytest.raises(ValueError, match="aren't those of its roster"):
        s.Session(replace(some.params, weights=(1, 1, 1)), some.roster, *where)
    assert s.Session(some.params, some.roster, *where).ctx


def test_two_that_are_drawn_are_no_pair():
    """Each of two could subtract itself: `allow_pair` is for a roster of two."""
    sizes = (2, 0, 2, 2, 24, 24, 1.0)
    assert SecAggParams(*sizes, (1, 1), allow_pair=True)
    with pytest.raises(ValueError, match="N >= 3 or allow_pair"):
        SecAggParams(*sizes, (1, 1, 1, 1), allow_pair=True)
