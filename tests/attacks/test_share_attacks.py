"""Step 2 and 3: envelopes and shares that were altered, withheld, or dealt wrong."""

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
    name,
)

from fedit_secure.errors import FaultyAggregator, FaultySilo
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import envelope, shares, silo_steps
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s


def mail_of(u2: m.ShareSet, change) -> m.ShareSet:
    return replace(u2, envelopes=tuple(change(list(u2.envelopes))))


def redirect(mail):
    (a, first), (b, second), *rest = mail
    return [(a, second), (b, first), *rest]


def flip(mail):
    (dealer, sealed), *rest = mail
    return [(dealer, bytes([sealed[0] ^ 1]) + sealed[1:]), *rest]


def truncate(mail):
    (dealer, sealed), *rest = mail
    return [(dealer, sealed[:-1]), *rest]


ENVELOPES = {
    "redirected": (redirect, "an altered envelope"),
    "reordered": (lambda mail: mail[::-1], "withheld or doubled"),
    "bit_flipped": (flip, "an altered envelope"),
    "truncated": (truncate, "an altered envelope"),
    "emptied": (lambda mail: [(mail[0][0], b""), *mail[1:]], "an altered envelope"),
    "withheld": (lambda mail: mail[1:], "withheld or doubled"),
    "doubled": (lambda mail: [mail[0], *mail], "withheld or doubled"),
}


@pytest.mark.parametrize("attack", ENVELOPES)
def test_envelope(attack):
    change, what = ENVELOPES[attack]
    play = Play(4).forge(m.ShareSet, lambda u2: mail_of(u2, change), to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", what)
    assert not play.heard(m.MaskedUpload, 0)
    assert_nothing_leaked(play)


def test_envelope_of_another_attempt():
    """The old envelope has an old hash, and its old statement another context."""
    first = Play(4).run(until=s.Masking)
    old = {b.statement.dealer: b for b in first.heard(m.ShareBundle)}
    play = first.again()

    def replay(u2):
        statements = tuple(
            old[3].statement if x.dealer == 3 else x for x in u2.statements
        )
        sealed = dict(old[3].envelopes)[0]
        mail = tuple((d, sealed if d == 3 else x) for d, x in u2.envelopes)
        return replace(u2, statements=statements, envelopes=mail)

    play.forge(m.ShareSet, replay, to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "another attempt")
    assert not play.heard(m.MaskedUpload, 0)
    assert_nothing_leaked(play)


def test_statement_for_another_key_set():
    """Who signed another K: was the dealer shown other adverts, or does it lie?"""
    play = Play(4)

    def lie(u2):
        last = play.by_silo(3, replace(u2.statements[3], key_set=b"K" * 32))
        return replace(u2, statements=(*u2.statements[:3], last))

    play.forge(m.ShareSet, lie).run()
    for silo in range(3):
        assert_refused(play, silo, FaultySiloOr, name(3), "other silos")
    assert_nothing_opened(play, corrupt=[3])


def test_set_of_dealers_under_another_key_set():
    play = Play(4).forge(m.ShareSet, lambda u2: replace(u2, key_set=b"K" * 32)).run()
    for silo in range(4):
        assert_refused(play, silo, FaultyAggregator, "aggregator", "other silos")
    assert_nothing_opened(play)


def test_statement_altered():
    play = Play(4)

    def altered(u2):
        first, *rest = u2.statements
        hashes = (b"h" * 32, *first.envelope_hashes[1:])
        return replace(u2, statements=(replace(first, envelope_hashes=hashes), *rest))

    play.forge(m.ShareSet, altered).run()
    for silo in range(4):
        assert_refused(
            play, silo, FaultyAggregator, "aggregator", "signature on ShareStatement"
        )
    assert_nothing_opened(play)


def test_own_statement_altered():
    play = Play(4)

    def altered(u2):
        first, *rest = u2.statements
        mine = replace(first, self_commitments=(b"c" * 32, *first.self_commitments[1:]))
        return replace(u2, statements=(play.by_silo(0, mine), *rest))

    play.forge(m.ShareSet, altered, to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "own")
    assert not play.heard(m.MaskedUpload, 0)


def test_a_dealer_outside_the_adverts():
    """U2 isn't a part of U1: the extra dealer holds no keys that anybody agreed to."""
    play = Play(5).drop(m.Advert, sender=4)
    other = Play(play.cast, seed=9).run(until=s.Masking)
    play.cast.lives = {i: type(life)() for i, life in play.cast.lives.items()}
    extra = other.heard(m.ShareBundle, 4)[0]

    def add(u2):
        mail = (*u2.envelopes, (4, dict(extra.envelopes)[0]))
        return replace(u2, statements=(*u2.statements, extra.statement), envelopes=mail)

    play.forge(m.ShareSet, add, to=0).run()
    assert_refused(play, 0, FaultyAggregator, "aggregator", "part of U1")
    assert not play.heard(m.MaskedUpload, 0)


# --------------------------------------------------------------------------- bad dealers


def dealt_badly(monkeypatch, play, dealer, spoil):
    """Make this dealer deal with `spoil(kind, secret, given)` -> the shares it deals."""
    real, secrets = shares.split, []
    play.corrupt.add(dealer)

    def split(secret, threshold, holders, rand):
        given = real(secret, threshold, holders, rand)
        secrets.append(secret)
        mine = play.states[dealer]
        if isinstance(mine, s.Advertised):
            if secret == mine.secrets.self_seed:
                return spoil("self", given)
            if secret == mine.secrets.mask_key.private_bytes():
                return spoil("key", given)
        return given

    monkeypatch.setattr(silo_steps.shares, "split", split)


def other_polynomial(kind, given):
    """Consistent shares of another secret: no holder alone can tell."""
    fresh = shares.split(b"\x55" * 32, 3, tuple(given), lambda n: b"\x10" * n)
    return {v: fresh[v] for v in given}


@pytest.mark.parametrize("kind", ["self", "key"])
def test_bad_dealer(monkeypatch, kind):
    """Its shares match its commitments and open to something else: all t revealers did
    right, and the dealer is named, by the aggregator that opens them."""
    play = Play(4)
    dealt_badly(
        monkeypatch, play, 3, lambda k, x: other_polynomial(k, x) if k == kind else x
    )
    if kind == "key":
        play.drop(m.MaskedUpload, sender=3)  # so that its mask key is opened
    play.run()
    assert_blamed(play, FaultySilo, name(3), "its shares don't open")
    assert play.released is None
    assert_nothing_leaked(play, corrupt=[3], withheld=True)  # its charge, and no more


def test_bad_dealer_of_no_secret_at_all(monkeypatch):
    """Points on no polynomial of degree t - 1 that opens to 32 bytes."""
    play = Play(4)
    top = (shares.PRIME - 1).to_bytes(33, "little")
    dealt_badly(monkeypatch, play, 3, lambda k, x: dict.fromkeys(x, top))
    play.run()
    assert_blamed(play, FaultySilo, name(3), "32-byte secret")
    assert_nothing_leaked(play, corrupt=[3], withheld=True)


def test_framing_by_wrong_shares(monkeypatch):
    """A revealer that lies about a share is found by the dealer's commitment; the dealer
    and the other holders aren't blamed, and the sum comes out without it."""
    play = Play(5)

    def lie(reveal):
        (peer, _), *rest = reveal.self_shares
        return replace(reveal, self_shares=((peer, b"\x01" * 33), *rest))

    play.cheat(m.Reveal, 2, lie).run()
    assert [e.suspect for e in play.blame] == [name(2)]
    assert_blamed(play, FaultySilo, name(2), "commitment")
    assert play.released.contributors == (0, 1, 2, 3, 4)
    assert_nothing_leaked(play, corrupt=[2])


@pytest.mark.parametrize("part", ["self_share", "key_share", "group_contribution"])
def test_bad_dealer_to_one_holder(monkeypatch, part):
    """One holder's letter misses its commitment. It knows who did it; others don't."""
    play = Play(4)

    def seal(own, bound, me, to, peer, letter):
        if me == 3 and to == 0:
            letter = replace(letter, **{part: bytes(len(getattr(letter, part)))})
        return envelope.seal(own, bound, me, to, peer, letter)

    monkeypatch.setattr(silo_steps, "seal", seal)
    play.run()
    assert_refused(play, 0, FaultySilo, name(3), "commitment")
    assert {u.header.silo for u in play.heard(m.MaskedUpload)} == {1, 2, 3}
    assert_nothing_leaked(play, corrupt=[3])


def test_bad_dealer_whose_envelope_does_not_open(monkeypatch):
    play = Play(4)

    def seal(own, bound, me, to, peer, letter):
        sealed = envelope.seal(own, bound, me, to, peer, letter)
        return bytes(len(sealed)) if me == 3 and to == 0 else sealed

    monkeypatch.setattr(silo_steps, "seal", seal)
    play.run()
    assert_refused(play, 0, FaultySilo, name(3), "doesn't open")
    assert_nothing_leaked(play, corrupt=[3])


def test_inconsistent_contribution(monkeypatch):
    """Two holders are sealed different g_u: one of them misses the advert's commitment."""
    play = Play(4)

    def seal(own, bound, me, to, peer, letter):
        if me == 3:
            letter = replace(letter, group_contribution=bytes([to]) * 32)
        return envelope.seal(own, bound, me, to, peer, letter)

    monkeypatch.setattr(silo_steps, "seal", seal)
    play.run()
    for silo in range(3):
        assert_refused(play, silo, FaultySilo, name(3), "group contribution")
    assert_nothing_opened(play, corrupt=[3])


# --------------------------------------------------------- bundles, at the aggregator


def short(bundle):
    return replace(bundle, envelopes=bundle.envelopes[:-1])


def doubled(bundle):
    (holder, _), *_ = bundle.envelopes
    return replace(bundle, envelopes=((holder, b"first"), *bundle.envelopes))


def swapped(bundle):
    (a, x), (b, y), *rest = bundle.envelopes
    return replace(bundle, envelopes=((a, y), (b, x), *rest))


def fewer_holders(bundle):
    st = bundle.statement
    cut = {
        f: getattr(st, f)[:-1]
        for f in ("holders", "envelope_hashes", "self_commitments", "key_commitments")
    }
    return replace(bundle, statement=replace(st, **cut))


def other_holders(bundle):
    """As many holders, and one of them another silo than in U1."""
    statement = bundle.statement
    others = (*statement.holders[:-1], statement.holders[-1] + 1)
    return replace(bundle, statement=replace(statement, holders=others))


def fewer(field):
    """All of U1 are holders, and one of them is promised nothing."""

    def change(bundle):
        short = getattr(bundle.statement, field)[:-1]
        return replace(bundle, statement=replace(bundle.statement, **{field: short}))

    return change


def other_key_set(bundle):
    return replace(bundle, statement=replace(bundle.statement, key_set=b"K" * 32))


BUNDLES = {
    "short": (short, "envelopes"),
    "doubled": (doubled, "envelopes"),
    "swapped": (swapped, "envelopes"),
    "fewer_holders": (fewer_holders, "others than U1"),
    "other_holders": (other_holders, "others than U1"),
    "fewer_hashes": (fewer("envelope_hashes"), "others than U1"),
    "fewer_self_commitments": (fewer("self_commitments"), "others than U1"),
    "fewer_key_commitments": (fewer("key_commitments"), "others than U1"),
    "other_key_set": (other_key_set, "other silos"),
}


@pytest.mark.parametrize("attack", BUNDLES)
def test_bundle_that_contradicts_itself(attack):
    change, what = BUNDLES[attack]
    play = Play(4).cheat(m.ShareBundle, 3, change).run()
    assert_blamed(play, FaultySilo, name(3), what)
    assert_released(play, [0, 1, 2])


def test_statement_over_other_holders_shown_by_a_colluding_aggregator():
    play = Play(4)

    def collude(u2):
        last = u2.statements[-1]
        cut = {
            f: getattr(last, f)[:-1]
            for f in (
                "holders", "envelope_hashes", "self_commitments", "key_commitments"
            )
        }  # fmt: skip
        forged = play.by_silo(3, replace(last, **cut))
        return replace(u2, statements=(*u2.statements[:-1], forged))

    play.forge(m.ShareSet, collude).run()
    for silo in range(3):
        assert_refused(play, silo, FaultySiloOr, name(3), "others than U1")
    assert_nothing_opened(play, corrupt=[3])
