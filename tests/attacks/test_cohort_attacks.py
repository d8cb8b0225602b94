"""Small, stacked and split cohorts; other charters, models, rounds and attempts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attacks.noise import is_noise
from playbook import (
    Play,
    assert_blamed,
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_refused,
    cast,
    opened,
)
from streams import ring_of

from fedit_secure.errors import AttemptFailed, FaultyAggregator, FaultySilo, FuseBlown
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s


def only(silos, entries, of="silo"):
    return tuple(x for x in entries if getattr(x, of) in silos)


def test_small_cohort():
    """Three of five (t = 4): the victim and what could be two accomplices."""
    play = Play(5)
    play.forge(
        m.AdvertSet, lambda u1: replace(u1, adverts=only({0, 3, 4}, u1.adverts))
    ).run()
    for silo in (0, 3, 4):
        assert_refused(
            play, silo, FaultyAggregator, "aggregator", "the minimum of 4 silos"
        )
    for silo in (1, 2):
        assert isinstance(play.errors[silo], FaultyAggregator)
    assert not play.heard(m.ShareBundle)
    assert_nothing_opened(play, corrupt=[3])


def test_small_cohort_after_share():
    play = Play(5)

    def fewer(u2):
        keep = {0, 1, 2}
        mail = tuple(x for x in u2.envelopes if x[0] in keep)
        statements = only(keep, u2.statements, "dealer")
        return replace(u2, statements=statements, envelopes=mail)

    play.forge(m.ShareSet, fewer).run()
    for silo in range(5):
        assert_refused(
            play, silo, FaultyAggregator, "aggregator", "the minimum of 4 silos"
        )
    assert not play.heard(m.MaskedUpload)
    assert_nothing_opened(play)


def test_stacked_cohort():
    """The aggregator invites the victim and its accomplices only."""
    play = Play(10, invited=[0, 7, 8, 9]).run()  # c = 3
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free
    assert_nothing_opened(play, corrupt=[7, 8, 9])

    play = Play(10, invited=[0, 1, 2, 7, 8, 9], seed=2).run()  # one short of t
    assert isinstance(play.aggregator, s.Ended)
    assert_nothing_opened(play, corrupt=[7, 8, 9])


def test_minimum_of_the_charter_counts_where_it_is_larger():
    play = Play(5, minimum=5).drop(m.MaskedUpload, sender=4).run()
    assert_nothing_opened(play)
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free


def test_survivors_below_minimum():
    play = Play(5)
    play.forge(m.SurvivorSet, lambda u3: replace(u3, headers=u3.headers[:3])).run()
    for silo in range(3):
        assert_refused(
            play, silo, FaultyAggregator, "aggregator", "the minimum of 4 silos"
        )
    assert not play.heard(m.Agreement)
    assert_nothing_opened(play)


def test_left_out_of_the_set_of_adverts():
    play = Play(4)
    play.forge(
        m.AdvertSet, lambda u1: replace(u1, adverts=only({1, 2, 3}, u1.adverts)), to=0
    ).run()
    assert_refused(play, 0, AttemptFailed, None, "left out of U1")
    assert not play.heard(m.ShareBundle, 0)


def test_left_out_of_the_dealers():
    play = Play(4)

    def without(u2):
        mail = tuple(x for x in u2.envelopes if x[0] != 0)
        return replace(u2, statements=u2.statements[1:], envelopes=mail)

    play.forge(m.ShareSet, without, to=0).run()
    assert isinstance(play.errors[0], AttemptFailed | FaultyAggregator)
    assert "left out of U2" in str(play.errors[0])
    assert not play.heard(m.MaskedUpload, 0)


def test_two_views_of_the_adverts():
    """Two halves are shown different U1, each large enough."""
    play = Play(10)
    halves = {True: set(range(7)), False: set(range(3, 10))}
    for silo in range(10):
        mine = halves[silo < 5]
        play.forge(
            m.AdvertSet,
            lambda u1, mine=mine: replace(u1, adverts=only(mine, u1.adverts)),
            to=silo,
        )
    play.run()
    # The aggregator's honest machine refuses other K's; whatever it did, no silo masked.
    assert not play.heard(m.MaskedUpload)
    assert_nothing_opened(play, corrupt=[3, 4, 5])


def test_two_views_of_the_dealers():
    """Different U2: the silos derive different masks, and their uploads sum to noise."""
    play = Play(5, length=20_000)

    def fewer(u2):
        mail = tuple(x for x in u2.envelopes if x[0] != 4)
        return replace(u2, statements=u2.statements[:4], envelopes=mail)

    play.forge(m.ShareSet, fewer, to=0).run()
    uploads = play.heard(m.MaskedUpload)
    assert len({u.header.dealers_digest for u in uploads}) == 2
    rings = [ring_of(u.payload, 20_000, 24) for u in uploads]
    assert is_noise([sum(rings, np.zeros(20_000, np.uint32)), *rings], 24)
    # The aggregator's honest machine takes the odd one for a liar, and goes on without.
    assert_blamed(play, FaultySilo, "silo-0", "other silos")
    assert play.released.contributors == (1, 2, 3, 4)
    assert_nothing_leaked(play)


def test_two_views_in_one_set_of_survivors():
    play = Play(5)

    def fewer(u2):
        mail = tuple(x for x in u2.envelopes if x[0] != 4)
        return replace(u2, statements=u2.statements[:4], envelopes=mail)

    play.forge(m.ShareSet, fewer, to=0)
    play.forge(
        m.SurvivorSet,
        lambda u3: replace(
            u3, headers=(play.heard(m.MaskedUpload, 0)[0].header, *u3.headers)
        ),
    ).run()
    for silo in range(1, 5):
        assert_refused(play, silo, FaultySiloOr, "silo-0", "other silos")
    assert_nothing_opened(play)


def test_different_model_to_one_silo():
    """A crafted model is in its context: it finds the offer to be another's."""
    play = Play(4, sessions={0: {"state_digest": b"x" * 32}}).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "model")
    assert not play.heard(m.Advert, 0)
    assert_nothing_leaked(play)


def test_crafted_model_to_all():
    """The offer names a state that no silo has computed."""
    play = Play(4)
    play.forge(m.Offer, lambda offer: replace(offer, state_digest=b"x" * 32)).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "model")
    assert not play.heard(m.Advert)
    assert_nothing_opened(play)


@pytest.mark.parametrize(
    "changes", [{"charter": b"Q" * 32}, {"round": 2}, {"attempt": 2}], ids=str
)
def test_old_charter_replayed_round_and_old_attempt_in_the_offer(changes):
    play = Play(4).forge(m.Offer, lambda offer: replace(offer, **changes)).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "another")
    assert not play.heard(m.Advert)


def test_replayed_offer_finds_the_attempt_entered():
    first = Play(4).run(until=s.Sharing)
    play = Play(first.cast, seed=3).run()  # the same round and attempt
    for silo in range(4):
        assert_refused(play, silo, FuseBlown, None, "entered before")
    assert not play.heard(m.Advert)


@pytest.mark.parametrize(
    "changes",
    [{"corrupt": 1}, {"bound": 2.0}, {"weights": (1, 2, 1, 1, 1, 1, 1)}],
    ids=str,
)
def test_downgraded_threshold_ring_or_weights(changes):
    """Silos of another codec are in another context from the first message on."""
    who = cast(7)  # c = 2
    other = cast(7, **changes)
    assert who.roster == other.roster
    params = other.params
    play = Play(who, sessions={0: {"params": params}})
    assert play.states[0].session.ctx != play.session.ctx
    play.run()
    assert 0 not in play.released.contributors
    assert not play.heard(m.ShareBundle, 0)
    assert_nothing_leaked(play)


def test_messages_of_another_attempt_are_refused():
    first = Play(4).run(until=s.Sharing)
    late = first.got(m.AdvertSet, 0) or [
        x.message for x in first.mail if isinstance(x.message, m.AdvertSet)
    ]
    play = first.again().alter(m.AdvertSet, lambda u1: late[0], to=0)
    play.run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "another")


def test_late_messages_of_an_earlier_attempt_hurt_nobody():
    """They are honest: the network was slow. No one is lost or blamed for them."""
    first = Play(5).run()
    stale = [x.message for x in first.sent]
    again = first.next_round()
    for message in stale:
        again.aggregate(message, sender=getattr(message, "silo", 0))
    assert not again.blame
    again.run()
    assert again.released.contributors == (0, 1, 2, 3, 4)
    assert opened(again) == {(i, "self") for i in range(5)}
