"""The assertion that nothing leaked: it sees what leaks, of every kind that it looks for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attacks.holdings import MINE, held
from playbook import (
    Mail,
    Play,
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_one_sum,
    learned,
    opened,
)
from streams import forget_masks

from fedit_secure.secagg import masks, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import Bad


def say(play: Play, message) -> None:
    """A silo's message that no honest silo sends comes into the attacker's hands."""
    play.sent.append(Mail(message.silo, None, message))


def test_the_sum_of_an_honest_play_is_all_that_is_learned():
    play = Play(5).run()
    assert learned(play) == [(0, 1, 2, 3, 4)]
    assert learned(play, corrupt=[2]) == [(0, 1, 3, 4)]
    assert opened(play) == {(i, "self") for i in range(5)}
    assert_nothing_leaked(play)


def test_with_a_dropped_silo_too():
    play = Play(5).drop(m.MaskedUpload, sender=1).run()
    assert learned(play) == [(0, 2, 3, 4)]
    assert opened(play) == {(1, "key"), *((i, "self") for i in (0, 2, 3, 4))}


def test_an_upload_that_was_late_is_covered_by_its_self_mask_alone():
    """Its mask key is open, so only b hides it: with t shares of that it shows."""
    play = Play(5).drop(m.MaskedUpload, sender=1).run()
    all_of = held(play)
    assert 1 in all_of.keys
    assert 1 not in all_of.seeds
    for silo in range(4):
        give(play, silo, 1, "self")
    assert {(1, "self"), (1, "key")} <= opened(play)
    assert (1,) in learned(play)
    with pytest.raises(AssertionError):
        assert_nothing_leaked(play)


def give(play: Play, holder: int, peer: int, kind: str) -> None:
    """This holder's true share of a peer's secret comes out, on top of what it revealed."""
    secret = play.secrets[peer].self_seed
    if kind == "key":
        secret = play.secrets[peer].mask_key.private_bytes()
    given = play.heard(m.Reveal, holder) or [m.Reveal(holder, play.session.ctx, (), ())]
    piece = dealt[play][peer, kind, secret][holder]
    field = "self_shares" if kind == "self" else "key_shares"
    more = (*getattr(given[0], field), (peer, piece))
    play.sent = [x for x in play.sent if x.message is not given[0]]
    say(play, replace(given[0], **{field: more}))


dealt: dict[Play, dict] = {}


@pytest.fixture(autouse=True)
def _watch_the_dealing(monkeypatch: pytest.MonkeyPatch):
    """Every share that is dealt, by play, secret and holder."""
    real, step = shares.split, Play.step

    def watching(play, silo, message):
        def split(secret, t, holders, rand):
            given = real(secret, t, holders, rand)
            kind = "self" if secret == play.states[silo].secrets.self_seed else "key"
            dealt.setdefault(play, {})[silo, kind, secret] = given
            return given

        with monkeypatch.context() as patch:
            patch.setattr(shares, "split", split)
            step(play, silo, message)

    monkeypatch.setattr(Play, "step", watching)
    yield
    dealt.clear()


def test_both_shares_of_one_peer_from_one_silo():
    play = Play(5).run()
    give(play, 0, 4, "key")
    with pytest.raises(AssertionError, match="revealed both shares"):
        assert_nothing_leaked(play)


def test_a_second_secret_from_accomplices_and_one_honest_silo_more():
    """Ten silos, t = 7: the accomplices' letters count as shares that were given."""
    play = Play(10).run()
    corrupt = [7, 8, 9]
    assert (0, "key") not in opened(play, corrupt)
    for holder in (1, 2, 3):
        give(play, holder, 0, "key")
    assert (0, "key") not in opened(play, corrupt)
    give(play, 4, 0, "key")
    assert (0, "key") in opened(play, corrupt)


def test_a_share_that_opens_another_secret_is_no_opening():
    """The calculation combines the bytes themselves, it doesn't count heads."""
    play = Play(5).run()
    reveal = play.heard(m.Reveal, 0)[0]
    wrong = ((reveal.self_shares[0][0], b"\x01" * 33), *reveal.self_shares[1:])
    play.sent = [x for x in play.sent if x.message is not reveal]
    say(play, replace(reveal, self_shares=wrong))
    with pytest.raises((AssertionError, Bad)):
        opened(play)


def test_a_sum_with_one_honest_update():
    play = Play(5).run()
    assert learned(play, corrupt=[0, 1, 2, 3]) == [(4,)]
    with pytest.raises(AssertionError):
        assert_nothing_leaked(play, corrupt=[0, 1, 2, 3])


def test_uploads_that_share_no_mask_are_read_one_by_one(monkeypatch):
    """A cohort without pair masks: self masks open, and every update shows."""
    pair = masks.pair_stream
    monkeypatch.setattr(masks, "pair_stream", lambda *args: (bytes(32), pair(*args)[1]))
    play = Play(3).run()
    with pytest.raises(AssertionError):
        assert_nothing_leaked(play)


def test_an_upload_that_is_not_masked(monkeypatch):
    forget_masks(monkeypatch)
    play = Play(3).run(until=s.Agreeing)
    with pytest.raises(AssertionError, match="aren't masked"):
        assert_nothing_leaked(play)


def test_a_secret_in_a_message():
    play = Play(4).run()
    advert = play.heard(m.Advert, 0)[0]
    for secret in (
        play.secrets[0].self_seed,
        play.secrets[0].group_contribution,
        play.secrets[0].mask_key.private_bytes(),
        play.secrets[0].envelope_key.private_bytes(),
    ):
        loud = Play(4).run()
        loud.sent[0] = Mail(0, None, replace(advert, self_commitment=secret))
        with pytest.raises(AssertionError, match="Advert"):
            assert_nothing_leaked(loud)


def test_an_envelope_sealed_to_the_attacker_s_key(monkeypatch):
    """A silo that took a key of the attacker's for its peer's has told it a share."""
    from fedit_secure.secagg import silo_steps

    real = silo_steps.seal

    def seal(own, bound, me, to, peer, letter):
        return real(own, bound, me, to, MINE.public, letter)

    monkeypatch.setattr(silo_steps, "seal", seal)
    play = Play(4).run()
    assert {(i, kind) for i in range(4) for kind in ("self", "key")} == opened(play)
    with pytest.raises(AssertionError, match="both secrets"):
        assert_nothing_leaked(play)


def test_shares_without_a_sum():
    play = Play(5).drop(m.PublishedSum).run(until=s.Published)
    play.released = None
    with pytest.raises(AssertionError, match="no sum came out"):
        assert_nothing_leaked(play)
    assert_nothing_leaked(play, withheld=True)
    with pytest.raises(AssertionError):
        assert_nothing_opened(play)


def test_two_sums_of_one_round():
    first = Play(4).run()
    second = first.next_round().run()
    assert_one_sum([first])
    with pytest.raises(AssertionError):
        assert_one_sum([first, second])


def test_the_calculation_has_the_true_sum():
    """It takes the masks off for real: with one update changed behind its back it fails."""
    play = Play(4).run()
    play.updates[2] = np.zeros_like(play.updates[2])
    with pytest.raises(AssertionError):
        learned(play)
