"""Properties over an unreliable network: what is lost, late, or said again, both ways."""

from __future__ import annotations

import heapq
from itertools import count
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playbook import SPOKEN, Mail, Play, assert_nothing_leaked, assert_released, opened

from fedit_secure.errors import FeditError, ProtocolError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.protocol import silo_step

QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
ENDS = s.Certified | s.Ended
# What the aggregator says in each phase; without the first three, a silo isn't summed.
SHOWN = (
    *(m.Offer, m.AdvertSet, m.ShareSet),
    *(m.UploadAck, m.SurvivorSet, m.AgreementSet, m.PublishedSum),
)
BEFORE_MASK = {m.Advert, m.ShareBundle, m.MaskedUpload, *SHOWN[:3]}
SEEDS = st.integers(0, 2**32 - 1)
RINGS = st.sampled_from([24, 32])


def federation(data: st.DataObject, most: int = 6, shortest: int = 1) -> Play:
    silos = data.draw(st.integers(3, most), "silos")
    return Play(
        silos,
        length=data.draw(st.integers(shortest, 40), "length"),
        ring_bits=data.draw(RINGS, "ring"),
        weights=data.draw(
            st.lists(st.integers(1, 99), min_size=silos, max_size=silos), "weights"
        ),
        seed=data.draw(st.integers(0, 99), "seed"),
    )


def lose(play: Play, silo: int, stage: type) -> None:
    """From this stage of the attempt on, one direction of a silo's link says nothing."""
    direction = SPOKEN if stage in SPOKEN else SHOWN
    for kind in direction[direction.index(stage) :]:
        if direction is SPOKEN:
            play.drop(kind, sender=silo)
        else:
            play.drop(kind, to=silo)


@given(st.data())
@QUICK
def test_any_tolerated_loss_in_either_direction_sums_exactly(
    data: st.DataObject,
) -> None:
    """One message or all from then on, at any stage, from a silo or to it."""
    play = federation(data, most=8)
    params = play.cast.params
    among = set(range(params.silos))
    most = params.silos - params.minimum
    for silo in data.draw(st.sets(st.sampled_from(sorted(among)), max_size=most)):
        stage = data.draw(st.sampled_from((*SPOKEN, *SHOWN)))
        if data.draw(st.booleans()):
            lose(play, silo, stage)
        else:
            play.drop(stage, **{"sender" if stage in SPOKEN else "to": silo})
        if stage in BEFORE_MASK:
            among -= {silo}
    assert_released(play.run(), among)


@given(st.data())
@QUICK
def test_too_great_a_loss_at_a_stage_gives_no_sum(data: st.DataObject) -> None:
    """Before anything is revealed, no secret opens; and nobody is blamed for it."""
    play = federation(data)
    params = play.cast.params
    least = params.silos - params.minimum + 1
    stage = data.draw(st.sampled_from(sorted(BEFORE_MASK, key=lambda t: t.__name__)))
    silos = st.sets(st.integers(0, params.silos - 1), min_size=least)
    for silo in data.draw(silos, "lost"):
        play.drop(stage, **{"sender" if stage in SPOKEN else "to": silo})
    play.run()
    assert play.released is None
    assert isinstance(play.aggregator, s.Ended)
    assert opened(play) == set()
    assert not play.blame
    assert_nothing_leaked(play)


class Network:
    """Mail that arrives after a random delay, in some copies; phases have deadlines."""

    def __init__(
        self, play: Play, seed: int, patience: int, copies: tuple[int, ...]
    ) -> None:
        self.play, self.patience, self.copies = play, patience, copies
        self.random = Random(seed)
        self.clock, self.order = 0, count()
        self.flying: list[tuple[int, int, Mail]] = []

    def take_off(self) -> None:
        while self.play.mail:
            mail = self.play.mail.popleft()
            local = mail.sender == mail.to  # a silo's word to itself
            for _ in range(1 if local else self.random.choice(self.copies)):
                delay = 0 if local else self.random.choice((0, 0, 0, 1, 2, 5, 30))
                arrival = (self.clock + 1 + delay, next(self.order), mail)
                heapq.heappush(self.flying, arrival)

    def deliver(self, mail: Mail) -> None:
        """A copy is refused, and the silo stays where it is: only the acknowledgement's
        own state would take a second one, and has a refusal of its own for it."""
        state = self.play.states.get(mail.to)
        if isinstance(mail.message, m.UploadAck) and getattr(state, "acked", False):
            with pytest.raises(ProtocolError, match="acknowledged before"):
                silo_step(state, mail.message, self.play.rand)
            return
        self.play._deliver(mail)

    def run(self) -> None:
        phase, due = type(self.play.aggregator), self.patience
        for _ in range(3000):
            self.take_off()
            over = isinstance(self.play.aggregator, ENDS) or None in self.play.errors
            if type(self.play.aggregator) is not phase:
                phase, due = type(self.play.aggregator), self.clock + self.patience
            if self.flying and (over or self.flying[0][0] <= due):
                self.clock, _, mail = heapq.heappop(self.flying)
                self.deliver(mail)
            elif over:
                return
            else:
                self.clock, due = due, due + self.patience
                self.play.aggregate(m.Deadline())
        raise AssertionError("3000 events, and no end")


def assert_harmless(play: Play) -> None:
    """An exact sum or none; no suspect, for nobody did wrong; and no leak."""
    for error in (*play.errors.values(), *play.blame):
        assert isinstance(error, FeditError)
        assert getattr(error, "suspect", None) is None, error
    if play.released is not None:
        among = play.released.contributors
        assert len(among) >= play.cast.params.minimum
        np.testing.assert_array_equal(play.released.total, play.plain_sum(among))
        for seen in play.verified.values():
            assert seen.release_digest == play.released.release_digest
    # Reveals that come too late are lost, and one charge with them.
    assert_nothing_leaked(play, withheld=True)


@given(st.data())
@QUICK
def test_copies_and_delays_within_the_deadlines_change_nothing(
    data: st.DataObject,
) -> None:
    """Every message arrives at least once before its phase ends: all silos are in."""
    play = federation(data)
    Network(play, data.draw(SEEDS), patience=200, copies=(1, 1, 2, 3)).run()
    assert_harmless(play)
    assert_released(play, range(play.cast.params.silos))


@given(st.data())
@settings(QUICK, max_examples=50)
def test_copies_and_delays_beyond_the_deadlines_harm_nobody(
    data: st.DataObject,
) -> None:
    """Some messages come phases late, some twice, some never."""
    play = federation(data)
    patience = data.draw(st.sampled_from([8, 33, 50, 70]), "patience")
    Network(play, data.draw(SEEDS), patience, copies=(*[1] * 20, 2, 3, 0)).run()
    assert_harmless(play)
    assert isinstance(play.aggregator, ENDS) or None in play.errors


@given(st.data())
@QUICK
def test_what_an_earlier_round_said_is_ignored_in_the_next(data: st.DataObject) -> None:
    """Silos' messages that were under way for a whole round, or are sent again."""
    first = federation(data, shortest=2).run()  # the next round rolls its updates
    old = [mail for mail in first.sent if mail.sender is not None]
    play, random = first.next_round(), Random(data.draw(SEEDS))
    while play.mail or not isinstance(play.aggregator, ENDS):
        if random.randrange(4) == 0:
            mail = random.choice(old)
            before = play.aggregator
            play.aggregate(mail.message, sender=mail.sender)
            assert play.aggregator is before
        elif play.mail:
            play._deliver(play.mail.popleft())
        else:
            play.aggregate(m.Deadline())
    assert not play.blame
    assert_released(play, range(play.cast.params.silos))


@given(st.data())
@QUICK
def test_what_an_earlier_attempt_said_is_ignored_in_the_next(
    data: st.DataObject,
) -> None:
    """An attempt that broke before anything was masked costs nothing, and its late
    messages neither."""
    first = federation(data)
    first.run(until=data.draw(st.sampled_from([s.Sharing, s.Masking])))
    old = [mail for mail in first.sent if mail.sender is not None]
    assert old
    play, random = first.again(), Random(data.draw(SEEDS))
    while play.mail:
        if random.randrange(4) == 0:
            mail = random.choice(old)
            before = play.aggregator
            play.aggregate(mail.message, sender=mail.sender)
            assert play.aggregator is before
        else:
            play._deliver(play.mail.popleft())
    assert not play.blame
    assert_released(play, range(play.cast.params.silos))
