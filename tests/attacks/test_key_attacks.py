"""Step 1 and 2: keys and adverts that aren't what their silo sent, or aren't sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from playbook import (
    Play,
    assert_blamed,
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_refused,
    assert_released,
    name,
)

from fedit_secure.errors import FaultyAggregator, FaultySilo, ProtocolError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import ExchangeKey, SigningKey

OWN = ExchangeKey.from_bytes(b"\x07" * 32).public
LOW_ORDER = bytes.fromhex(
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
)
TWIN = (2**255 - 19 + 9).to_bytes(32, "little")  # the base point 9 once more
BIT_255 = bytes([*OWN[:31], OWN[31] | 0x80])
MALFORMED = [LOW_ORDER, bytes(32), TWIN, BIT_255]


def swap(u1: m.AdvertSet, silo: int, **changes: object) -> m.AdvertSet:
    """The set with one silo's advert changed, its old signature kept."""
    adverts = (replace(a, **changes) if a.silo == silo else a for a in u1.adverts)
    return replace(u1, adverts=tuple(adverts))


@pytest.mark.parametrize("key", ["mask_key", "envelope_key"])
@pytest.mark.parametrize("victim", [0, 2])
def test_swapped_keys(key, victim):
    # The man in the middle: every silo, the victim too, is shown a key of ours.
    play = Play(4).forge(m.AdvertSet, lambda u1: swap(u1, victim, **{key: OWN})).run()
    for silo in range(4):
        assert_refused(
            play, silo, FaultyAggregator, "aggregator", "signature on Advert"
        )
    assert not play.heard(m.ShareBundle)
    assert_nothing_opened(play)


def test_resigned_keys():
    """The swapped advert is signed, by somebody who isn't its silo."""
    play = Play(4)

    def swapped(u1):
        forged = play.by_aggregator(replace(u1.adverts[1], mask_key=OWN))
        return replace(u1, adverts=(u1.adverts[0], forged, *u1.adverts[2:]))

    play.forge(m.AdvertSet, swapped, to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "signature on Advert")
    assert_released_without(play, 0)


def test_own_advert_altered():
    """A colluding insider holds the victim's identity key, but not its attempt."""
    play = Play(4)

    def altered(u1):
        mine = play.by_silo(0, replace(u1.adverts[0], mask_key=OWN))
        return replace(u1, adverts=(mine, *u1.adverts[1:]))

    play.forge(m.AdvertSet, altered, to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "own")
    assert not play.heard(m.ShareBundle, 0)


@pytest.mark.parametrize("key", ["mask_key", "envelope_key"])
@pytest.mark.parametrize("bad", MALFORMED, ids=["low", "zero", "twin", "bit255"])
def test_low_order_and_twin_keys_shown_by_a_colluding_aggregator(key, bad):
    play = Play(4)

    def colluding(u1):
        forged = play.by_silo(3, replace(u1.adverts[3], **{key: bad}))
        return replace(u1, adverts=(*u1.adverts[:3], forged))

    play.forge(m.AdvertSet, colluding).run()
    for silo in range(3):
        assert_refused(play, silo, FaultySilo, name(3), "X25519 public key")
    assert_nothing_opened(play, corrupt=[3])


@pytest.mark.parametrize("bad", MALFORMED, ids=["low", "zero", "twin", "bit255"])
def test_low_order_and_twin_keys_are_refused_by_the_aggregator(bad):
    play = Play(4).cheat(m.Advert, 3, lambda a: replace(a, mask_key=bad)).run()
    assert_blamed(play, FaultySilo, name(3), "X25519 public key")
    assert_released(play, [0, 1, 2])


def test_one_key_for_two_purposes():
    play = Play(4)
    play.cheat(m.Advert, 3, lambda a: replace(a, envelope_key=a.mask_key)).run()
    assert_blamed(play, FaultySilo, name(3), "key")
    assert_released(play, [0, 1, 2])


@pytest.mark.parametrize("mine", ["mask_key", "envelope_key"])
@pytest.mark.parametrize("theirs", ["mask_key", "envelope_key"])
def test_duplicated_keys_are_the_second_silo_s_fault_to_the_aggregator(mine, theirs):
    play = Play(4)
    stolen = {}

    def steal(advert):
        stolen.update({mine: getattr(advert, theirs)})
        return advert

    play.alter(m.Advert, steal, sender=0)
    play.cheat(m.Advert, 3, lambda a: replace(a, **stolen)).run()
    assert_blamed(play, FaultySilo, name(3), "key")
    assert_released(play, [0, 1, 2])


@pytest.mark.parametrize("thief", [0, 3])
def test_duplicated_keys_that_the_aggregator_lets_pass(thief):
    """The thief's mask with the third silo would be the victim's too, and cancel."""
    play, victim = Play(4), 1

    def collude(u1):
        copy = replace(u1.adverts[thief], mask_key=u1.adverts[victim].mask_key)
        adverts = list(u1.adverts)
        adverts[thief] = play.by_silo(thief, copy)
        return replace(u1, adverts=tuple(adverts))

    play.forge(m.AdvertSet, collude).run()
    for silo in {0, 1, 2, 3} - {thief}:  # and never the victim
        assert_refused(play, silo, FaultyAggregator, "aggregator", "key")
    assert_nothing_opened(play, corrupt=[thief])


def test_replayed_keys():
    """An advert of an earlier attempt, when its private keys may have been leaked."""
    first = Play(4).run(until=s.Sharing)
    old = first.heard(m.Advert, 2)[0]
    play = first.again()
    play.forge(
        m.AdvertSet,
        lambda u1: replace(
            u1, adverts=tuple(old if a.silo == 2 else a for a in u1.adverts)
        ),
    ).run()
    for silo in (0, 1, 3):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "another attempt")
    assert_nothing_opened(play)


def test_unrostered_silo():
    play, sybil = Play(4), SigningKey.from_seed(b"\x09" * 32)

    def invent(u1):
        extra = replace(u1.adverts[0], silo=4, mask_key=OWN)
        signature = sybil.sign(extra.signed_digest())
        return replace(u1, adverts=(*u1.adverts, replace(extra, signature=signature)))

    play.forge(m.AdvertSet, invent).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "no silo has number")
    assert_nothing_opened(play)


@pytest.mark.parametrize("silo", [7, -1])
def test_unrostered_silo_at_the_aggregator(silo):
    """Counted from the end, a list has a silo -1 too."""
    play = Play(4)
    play.alter(m.Advert, lambda a: [a, replace(a, silo=silo)], sender=3).run()
    assert_blamed(play, ProtocolError, None, "no silo has number")


def test_sybil():
    """One silo stands in the set twice, under its own name and its own signature."""
    play = Play(4)

    def twice(u1):
        again = play.by_silo(3, replace(u1.adverts[3], mask_key=OWN))
        return replace(u1, adverts=(*u1.adverts, again))

    play.forge(m.AdvertSet, twice).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "twin")
    assert_nothing_opened(play, corrupt=[3])


def test_another_silo_s_name():
    """Nobody is blamed for, or evicted by, what somebody else says under his name."""
    play = Play(4)
    play.alter(m.Advert, lambda a: [replace(a, silo=1, mask_key=OWN), a], sender=3)
    play.run()
    assert_blamed(play, ProtocolError, None, "signature on Advert")
    assert {0, 1, 2} <= set(play.released.contributors)


def test_unsorted_adverts():
    play = Play(4)
    play.forge(m.AdvertSet, lambda u1: replace(u1, adverts=u1.adverts[::-1])).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "unsorted")


def test_advert_set_signed_by_nobody():
    play = Play(4)
    play.alter(m.AdvertSet, lambda u1: replace(u1, signature=bytes(64)), to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "signature on AdvertSet")
    assert_released_without(play, 0)


def assert_released_without(play: Play, silo: int) -> None:
    """The silo sat out before it dealt a share; the others' sum is exact."""
    others = [i for i in range(4) if i != silo]
    np.testing.assert_array_equal(play.released.total, play.plain_sum(others))
    assert not play.heard(m.ShareBundle, silo)
    assert_nothing_leaked(play)
