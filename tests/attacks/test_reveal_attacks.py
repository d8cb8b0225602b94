"""Steps 4 and 5: who is said to have dropped, and what is revealed on it."""

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
    name,
    opened,
)

from fedit_secure.errors import FaultyAggregator, FaultySilo, FuseBlown, ProtocolError
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.protocol import silo_step
from fedit_secure.storage.life import burn


def without(play, silo):
    """The set of survivors less one, as the aggregator signs it."""

    def change(u3):
        headers = tuple(h for h in u3.headers if h.silo != silo)
        return play.by_aggregator(replace(u3, headers=headers))

    return change


def shown_quorum(play) -> m.AgreementSet:
    return play.got(m.AgreementSet, 0)[0]


def test_both_shares():
    """Silo 4 survived and is shown dead afterwards, to a silo that has agreed, and to one
    that has revealed. Flower's SecAgg+ client answers this."""
    play = Play(5).run(until=s.Revealing)
    u3 = play.got(m.SurvivorSet, 0)[0]
    dead = without(play, 4)(u3)
    for silo in range(5):
        with pytest.raises(ProtocolError, match="Agreed takes no SurvivorSet"):
            silo_step(play.states[silo], dead, play.rand)
    play.run(until=s.Published)
    for silo in range(5):
        for message in (dead, shown_quorum(play)):
            with pytest.raises(ProtocolError, match="takes no"):
                silo_step(play.states[silo], message, play.rand)
    assert opened(play) == {(i, "self") for i in range(5)}
    assert_nothing_leaked(play)


def test_both_shares_from_two_halves():
    """Half of the silos see silo 4 alive, the others see it dead, and every one is shown
    whatever agreements there are."""
    play = Play(5)
    for silo in range(3):
        play.alter(m.SurvivorSet, without(play, 4), to=silo)
    play.run()
    assert_nothing_opened(play)
    assert isinstance(play.aggregator, s.Ended)
    assert play.aggregator.free


def test_self_listed_dead():
    """The victim is told that it is itself dropped (unacknowledged, so it can't prove that
    it isn't); it helps the others and never gives its own mask key's share away."""
    play = Play(5).drop(m.MaskedUpload, sender=0)
    play.run()
    reveal = play.heard(m.Reveal, 0)[0]
    assert [peer for peer, _ in reveal.self_shares] == [1, 2, 3, 4]
    assert reveal.key_shares == ()
    assert_released(play, [1, 2, 3, 4])


def test_acked_but_unlisted():
    play = Play(5)
    play.alter(m.SurvivorSet, without(play, 0)).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "acknowledged")
    assert not play.heard(m.Agreement, 0)
    assert not play.heard(m.Reveal, 0)
    assert_nothing_leaked(play)


def test_acked_by_a_lie():
    """An acknowledgement of something else proves as much."""
    play = Play(4)
    play.forge(m.UploadAck, lambda ack: replace(ack, header_digest=b"x" * 32), to=0)
    play.forge(m.UploadAck, lambda ack: replace(ack, silo=0), to=1)
    play.run()
    for silo in (0, 1):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "never sent")
    assert_nothing_opened(play)


def test_ack_of_nobody():
    play = Play(4).alter(m.UploadAck, lambda a: replace(a, signature=bytes(64)), to=0)
    play.run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "signature on UploadAck")
    assert play.states[0].acked is False


def test_ack_twice():
    play = Play(4).alter(m.UploadAck, lambda ack: [ack, ack], to=0).run()
    assert_refused(play, 0, ProtocolError, None, "acknowledged before")


def test_late_upload_is_ignored():
    """It arrives when U3 is sealed: never added, never acknowledged, and no one's fault."""
    play, held = Play(5), []
    play.alter(m.MaskedUpload, held.append, sender=4)
    play.run(until=s.Agreeing, deadlines=True)
    before = play.aggregator
    play.aggregate(held[0], sender=4)
    assert play.aggregator == before
    assert not play.blame
    play.run()
    assert not play.got(m.UploadAck, 4)
    assert_released(play, [0, 1, 2, 3])
    # Both secrets of it would be needed now to read it: only its key is opened.
    assert (4, "key") in opened(play)
    assert (4, "self") not in opened(play)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda h: (h[0], *h), "twin"),
        (lambda h: h[::-1], "unsorted"),
        (lambda h: (*h[:3], replace(h[3], silo=9)), "no silo has number"),
        (lambda h: (replace(h[0], silo=1), *h[2:]), "the minimum"),
        (lambda h: (*h[:3], replace(h[3], payload_digest=b"p" * 32)), "signature"),
    ],
    ids=["duplicate", "unsorted", "unknown", "too_few", "altered"],
)
def test_duplicate_unknown_or_altered_survivors(change, what):
    play = Play(5, minimum=4)
    play.forge(
        m.SurvivorSet, lambda u3: replace(u3, headers=change(u3.headers[:4]))
    ).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.Agreement)
    assert_nothing_opened(play)


def test_survivor_outside_the_dealers():
    """Silo 4 never dealt. An accomplice, it signs a header all the same."""
    play = Play(5).drop(m.ShareBundle, sender=4)

    def add(u3):
        fifth = play.by_silo(4, replace(u3.headers[0], silo=4))
        return replace(u3, headers=(*u3.headers, fifth))

    play.forge(m.SurvivorSet, add).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "part of U2")
    assert_nothing_opened(play, corrupt=[4])


def test_own_header_altered():
    play = Play(4)

    def other(u3):
        mine = play.by_silo(0, replace(u3.headers[0], payload_digest=b"p" * 32))
        return replace(u3, headers=(mine, *u3.headers[1:]))

    play.forge(m.SurvivorSet, other, to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "own UploadHeader")
    assert not play.heard(m.Agreement, 0)


def test_header_of_another_length():
    play = Play(4)

    def longer(u3):
        last = play.by_silo(3, replace(u3.headers[3], length=999))
        return replace(u3, headers=(*u3.headers[:3], last))

    play.forge(m.SurvivorSet, longer).run()
    for silo in range(3):
        assert_refused(play, silo, FaultySiloOr, name(3), "length")
    assert_nothing_opened(play, corrupt=[3])


# --------------------------------------------------------------------------- the quorum


QUORUMS = {
    "missing": (lambda play, a: a[:2], "has 2 of 4 signatures"),
    "none": (lambda play, a: (), "has 0 of 4 signatures"),
    "duplicate": (lambda play, a: (*a[:3], a[2]), "twin"),
    "replayed": (
        lambda play, a: (*a[:3], play.earlier[a[3].silo]),
        "agreed to others",
    ),
    "unsigned": (
        lambda play, a: (*a[:3], replace(a[3], signature=bytes(64))),
        "signature on Agreement",
    ),
    "stolen": (lambda play, a: (*a[:3], replace(a[3], silo=(a[3].silo + 1) % 5)), "signat"),
    "unrostered": (lambda play, a: (*a[:3], replace(a[3], silo=8)), "no silo has number"),
    "other_content": (
        lambda play, a: (
            *a[:3], play.by_silo(a[3].silo, replace(a[3], survivors_digest=b"3" * 32))
        ),
        "agreed to others",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", QUORUMS)
def test_agree_signatures(attack):
    """Missing, duplicate, replayed (cross-session), foreign: nobody reveals."""
    change, what = QUORUMS[attack]
    who = cast(5)
    other = Play(who, attempt=2).run(until=s.Revealing)
    who.lives, who.heads = cast(5).lives, cast(5).heads
    play = Play(who)
    play.earlier = {a.silo: a for a in other.heard(m.Agreement)}
    play.alter(
        m.AgreementSet,
        lambda quorum: replace(quorum, agreements=change(play, quorum.agreements)),
    ).run()
    for silo in range(5):
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.Reveal)
    assert_nothing_opened(play)


def test_agree_signature_from_outside_the_dealers():
    play = Play(5).drop(m.ShareBundle, sender=4)

    def add(quorum):
        fourth = quorum.agreements[3]
        fifth = play.by_silo(4, replace(fourth, silo=4))
        return replace(quorum, agreements=(*quorum.agreements[:3], fifth))

    play.alter(m.AgreementSet, add).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "outside U2")
    assert_nothing_opened(play, corrupt=[4])


def test_agreeing_to_other_survivors_is_that_silo_s_fault():
    play = Play(5)
    play.cheat(m.Agreement, 2, lambda a: replace(a, survivors_digest=b"3" * 32)).run()
    assert_blamed(play, FaultySilo, name(2), "other survivors")
    assert play.released.contributors == (0, 1, 2, 3, 4)


# ----------------------------------------------------------------------------- twice


def test_second_reveal():
    play = Play(4).run(until=s.Published)
    with pytest.raises(ProtocolError, match="Revealed takes no AgreementSet"):
        silo_step(play.states[0], shown_quorum(play), play.rand)
    assert_nothing_leaked(play)


def test_second_reveal_after_a_restart():
    """A clone of the state from before, which no honest silo has, meets the fuse."""
    play, cloned = Play(4), {}

    def clone(quorum):
        cloned.update({0: play.states[0]})
        return quorum

    play.alter(m.AgreementSet, clone, to=0).run(until=s.Published)
    play.restart(0)
    _, effects = silo_step(cloned[0], shown_quorum(play), play.rand)
    with pytest.raises(FuseBlown, match="revealed, not masked"):
        play.perform(0, effects)
    assert len(play.heard(m.Reveal, 0)) == 1
    # What it resends is what it has sent, byte for byte, and that is heard once.
    assert play.records[0] == play.heard(m.Reveal, 0)[0]
    before = play.aggregator
    play.aggregate(play.records[0], sender=0)
    assert play.aggregator == before
    assert not play.blame
    assert_nothing_leaked(play)


def test_effects_stop_at_a_refused_fuse():
    """The order of effects is the guarantee: the fuse stands before the message."""
    play = Play(4).run()
    for mail in play.sent:
        assert mail.to is None
    for silo, kind in ((0, m.Offer), (0, m.AgreementSet), (0, m.ShareSet)):
        fresh = Play(4)
        taken = []
        fresh.alter(kind, lambda x: taken.append((fresh.states[0], x)) or x, to=silo)  # noqa: B023
        fresh.run()
        _, effects = silo_step(*taken[0], fresh.rand)
        assert isinstance(effects[0], m.Fuse)
        with pytest.raises(FuseBlown):
            burn(fresh.cast.lives[silo], effects[0])


# -------------------------------------------------- reveals, at the aggregator


def both(reveal):
    return replace(reveal, key_shares=tuple(reveal.self_shares[1:]))


REVEALS = {
    "both": (both, "other shares than agreed"),
    "too_few": (
        lambda r: replace(r, self_shares=r.self_shares[:-1]),
        "other shares than agreed",
    ),
    "doubled": (
        lambda r: replace(r, self_shares=(r.self_shares[0], *r.self_shares)),
        "other shares than agreed",
    ),
    "wrong": (
        lambda r: replace(
            r, self_shares=tuple((peer, bytes(33)) for peer, _ in r.self_shares)
        ),
        "misses the dealer's commitment",
    ),
    "swapped": (
        lambda r: replace(
            r,
            self_shares=(
                (r.self_shares[0][0], r.self_shares[1][1]),
                (r.self_shares[1][0], r.self_shares[0][1]),
                *r.self_shares[2:],
            ),
        ),
        "misses the dealer's commitment",
    ),
}


@pytest.mark.parametrize("attack", REVEALS)
def test_bad_reveal(attack):
    change, what = REVEALS[attack]
    play = Play(5).cheat(m.Reveal, 3, change).run()
    assert_blamed(play, FaultySilo, name(3), what)
    assert play.released.contributors == (0, 1, 2, 3, 4)
    assert isinstance(play.aggregator, s.Certified)


def test_withheld_agreement_leaves_a_key_with_too_few_shares():
    """t = 4 of five reveal. But one of them dropped out before, and has no share of its own
    key to give: no sum, and an honest aggregator doesn't fail on it."""
    play = Play(5).drop(m.MaskedUpload, sender=4).drop(m.Agreement, sender=0).run()
    assert {answer.silo for answer in play.heard(m.Reveal)} == {1, 2, 3, 4}
    assert isinstance(play.aggregator, s.Ended)
    assert not play.aggregator.free
    assert play.released is None
    assert not play.blame


def test_reveal_before_its_time():
    """Nobody sends it by mistake, so whoever does is out, heard in this phase or not."""
    play = Play(5)
    early = play.by_silo(0, m.Reveal(0, play.session.ctx, ((1, bytes(33)),), ()))
    play.alter(m.Advert, lambda advert: [advert, early], sender=0).run()
    assert_blamed(play, ProtocolError, None, "Gathering takes no Reveal")
    assert_released(play, [1, 2, 3, 4])


def test_withheld_reveal_holds_nobody_up():
    """As soon as t shares of each secret are there, no deadline is waited for."""
    play = Play(5).drop(m.Reveal, sender=4).run(deadlines=False)
    assert_released(play, range(5))


def test_reveal_with_somebody_else_s_name():
    play = Play(5)
    play.alter(m.Reveal, lambda r: [replace(r, silo=1), r], sender=3).run()
    assert_blamed(play, ProtocolError, None, "signature on Reveal")
    assert play.released.contributors == (0, 1, 2, 3, 4)
