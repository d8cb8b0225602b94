"""Agreements of other sessions: signed by the right silos, for something else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playbook import Play, assert_nothing_opened, assert_refused, cast

from fedit_secure.errors import FaultyAggregator
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.storage.life import Life

SESSIONS = {
    "charter": {},  # the cast's own is changed
    "round": {"round": 2},
    "attempt": {"attempt": 2},
    "model": {"state_digest": b"x" * 32},
    "randomness": {
        "seed": 5
    },  # the same place, other keys: a clone of the whole federation
}


def elsewhere(who, session: str) -> dict[int, m.Agreement]:
    """What the same silos, with the same identity keys, agreed to in another session."""
    here = replace(who, charter=b"Q" * 32) if session == "charter" else who
    other = Play(here, **SESSIONS[session]).run(until=s.Revealing)
    agreements = {a.silo: a for a in other.heard(m.Agreement)}
    assert len(agreements) == 5
    who.lives = {i: Life() for i in range(5)}
    who.heads = {i: {} for i in range(5)}
    return agreements


@pytest.mark.parametrize("how_many", [1, 4])
@pytest.mark.parametrize("session", SESSIONS)
def test_cross_session_agreements(session, how_many):
    """One foreign signature among the true ones, or a whole foreign quorum."""
    who = cast(5)
    others = elsewhere(who, session)
    play = Play(who)

    def mixed(quorum):
        ours = quorum.agreements[how_many:]
        theirs = [others[a.silo] for a in quorum.agreements[:how_many]]
        return replace(quorum, agreements=(*theirs, *ours))

    play.alter(m.AgreementSet, mixed).run()
    for silo in range(5):
        what = "its quorum agreed to others"
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.Reveal)
    assert_nothing_opened(play)


def test_cross_session_set_of_survivors():
    """The same for the step before: U3 of another session, signed by the aggregator."""
    who = cast(5)
    other = Play(who, attempt=2).run(until=s.Revealing)
    foreign = other.got(m.SurvivorSet, 0)[0]
    who.lives, who.heads = {i: Life() for i in range(5)}, {i: {} for i in range(5)}
    play = Play(who)
    play.forge(m.SurvivorSet, lambda u3: replace(u3, headers=foreign.headers)).run()
    for silo in range(5):
        what = "U3 has an entry of another attempt"
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.Agreement)
    assert_nothing_opened(play)
