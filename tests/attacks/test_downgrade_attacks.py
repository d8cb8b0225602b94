"""An aggregator that runs the protocol by weaker numbers than the charter's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playbook import (
    Cast,
    Play,
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_refused,
    cast,
)

from fedit_secure.errors import FaultyAggregator
from fedit_secure.secagg import messages as m
from fedit_secure.storage.life import MASKED, VOIDED


def weakened(who: Cast, weaker: Cast, **changes) -> Play:
    """The aggregator goes by the weaker cast's numbers, under the true context: what it
    sends looks as if they were the charter's."""
    assert who.roster == weaker.roster
    play = Play(who, **changes)
    session = replace(play.session, params=weaker.params)
    object.__setattr__(session, "ctx", play.session.ctx)
    play.aggregator = replace(play.aggregator, session=session)
    return play


def fewer(play: Play, kind: type, silos: range) -> Play:
    for silo in silos:
        play.drop(kind, sender=silo)
    return play


THRESHOLDS = {
    "adverts": (m.Advert, "U1 is below the minimum of 7 silos"),
    "dealers": (m.ShareBundle, "U2 is below the minimum of 7 silos"),
    "survivors": (m.MaskedUpload, "U3 is below the minimum of 7 silos"),
    "quorum": (m.Agreement, "its quorum has 6 of 7 signatures"),
}


@pytest.mark.parametrize("step", THRESHOLDS)
def test_downgraded_threshold(step):
    """It is content with six of ten where the roster says seven."""
    kind, what = THRESHOLDS[step]
    play = weakened(cast(10), cast(10, corrupt=1))
    fewer(play, kind, range(6, 10)).drop(m.VoidCertificate).run()
    for silo in range(6):
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert_nothing_opened(play, corrupt=[0, 1, 2])


def test_downgraded_void_certificate():
    """Six signatures are to free ten updates, and with them the old uploads: t are not."""
    play = weakened(cast(10), cast(10, corrupt=1))
    fewer(play, m.MaskedUpload, range(5, 10))
    for silo in range(6, 10):
        play.drop(m.VoidRequest, to=silo)
    with pytest.raises(FaultyAggregator, match="void certificate has too few signers"):
        play.run()
    assert {play.cast.lives[i].state for i in range(10)} <= {MASKED, VOIDED}
    assert_nothing_opened(play, corrupt=[0, 1, 2])


def test_downgraded_minimum():
    """The charter asks for nine of ten, and eight have uploaded."""
    play = weakened(cast(10, minimum=9), cast(10))
    fewer(play, m.MaskedUpload, range(8, 10)).run()
    for silo in range(8):
        what = "U3 is below the minimum of 9 silos"
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.Agreement)
    assert_nothing_opened(play, corrupt=[0, 1, 2])


ELSEWHERE = {
    "ring": {"ring_bits": 32},
    "bound": {"bound": 2.0},
    "weights": {"weights": (1, 2, 1, 1, 1, 1, 1)},
    "threshold": {"corrupt": 1},
    "minimum": {"minimum": 6},
}


@pytest.mark.parametrize("number", [*ELSEWHERE, "charter"])
def test_downgraded_for_one_silo(number):
    """Silo 0 alone goes by other numbers, and the aggregator brings both sides together:
    each finds the other's advert to be of another attempt."""
    who = cast(7)
    theirs = {"charter": b"Q" * 32}
    if number in ELSEWHERE:
        theirs = {"params": cast(7, **ELSEWHERE[number]).params}
    play = Play(who, sessions={0: theirs})
    other = play.sessions[0]
    assert other.ctx != play.session.ctx
    play.forge(m.Offer, lambda offer: replace(offer, charter=other.charter), to=0)

    def together(u1):
        apart = play.heard(m.Advert, 0)
        return replace(u1, adverts=(*apart, *u1.adverts))

    play.forge(m.AdvertSet, together).run()
    for silo in range(1, 7):
        what = "U1 has an entry of another attempt"
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    sets = [x.message for x in play.shown if isinstance(x.message, m.AdvertSet)]
    play.step(0, play.by_aggregator(replace(sets[0], ctx=other.ctx)))
    what = "U1 has an entry of another attempt"
    assert_refused(play, 0, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.ShareBundle)
    assert_nothing_opened(play)


def test_downgraded_charter_in_the_offer():
    """The offer of a weaker charter, to silos that hold the stronger."""
    play = Play(4).forge(m.Offer, lambda offer: replace(offer, charter=b"Q" * 32)).run()
    for silo in range(4):
        what = "another charter, round, attempt or model"
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.Advert)
    assert_nothing_leaked(play)
