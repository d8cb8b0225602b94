"""The checks that no attack reaches through a whole release; the others are in attacks/."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from playbook import Play, head, name

from fedit_secure.errors import FaultyAggregator, FaultySilo
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import Bad


@pytest.fixture(scope="module")
def play() -> Play:
    return Play(4).run()


def test_a_fault_is_raised_only_when_it_is_one():
    checks.expect(True, "nothing", FaultyAggregator)
    with pytest.raises(FaultyAggregator, match="the aggregator is faulty: something"):
        checks.expect(False, "something", FaultyAggregator)
    with pytest.raises(Bad, match="something"):
        checks.expect(False, "something")


def test_a_signature_is_over_the_whole_message(play):
    advert = play.heard(m.Advert, 1)[0]
    checks.signed(play.cast.roster, advert)
    other = {
        "silo": 2, "ctx": b"x" * 32, "mask_key": b"x" * 32, "envelope_key": b"x" * 32,
        "self_commitment": b"x" * 32, "group_commitment": b"x" * 32,
        "ledger_head": head(1, 99), "signature": b"x" * 64,
    }  # fmt: skip
    assert set(other) == {f.name for f in fields(m.Advert)}
    for field, value in other.items():
        changed = replace(advert, **{field: value})
        with pytest.raises(Bad, match="a wrong signature on Advert"):
            checks.signed(play.cast.roster, changed)


@pytest.mark.parametrize("kind", [m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal])
def test_a_signature_covers_every_field(play, kind):
    message = play.heard(kind, 1)[0]
    part = getattr(message, "statement", getattr(message, "header", message))
    checks.signed(play.cast.roster, part)
    for field in {f.name for f in fields(part)} - {"silo", "dealer"}:
        value = getattr(part, field)
        if isinstance(value, bytes):
            other = bytes([value[0] ^ 1]) + value[1:]
        else:
            other = value + 1 if isinstance(value, int) else (*value, *value)
            other = other or ((1, b"x"),)
        changed = replace(part, **{field: other})
        with pytest.raises(Bad, match="a wrong signature"):
            checks.signed(play.cast.roster, changed)


@pytest.mark.parametrize("silo", [-1, 4, 2**40])
def test_a_silo_outside_the_roster_signs_nothing(play, silo):
    word = play.by_silo(0, m.VoidStatement(0, play.session.ctx))
    with pytest.raises(Bad, match="no silo has number"):
        checks.signed(play.cast.roster, replace(word, silo=silo))


def test_by_aggregator_takes_its_signature_and_this_attempt(play):
    request = play.by_aggregator(m.VoidRequest(play.session.ctx))
    checks.by_aggregator(play.session, request)
    by_silo = play.by_silo(0, m.VoidRequest(play.session.ctx))
    with pytest.raises(FaultyAggregator, match="a wrong signature on VoidRequest"):
        checks.by_aggregator(play.session, by_silo)
    other = play.by_aggregator(m.VoidRequest(b"o" * 32))
    with pytest.raises(FaultyAggregator, match="of another attempt"):
        checks.by_aggregator(play.session, other)
    # A message without a ctx, such as the request to skip a round, has no attempt.
    skip = play.by_aggregator(m.SkipRequest(play.cast.charter, 1, b"d" * 32))
    checks.by_aggregator(play.session, skip)


def test_a_head_is_compared_to_the_one_last_seen(play):
    advert = play.heard(m.Advert, 1)[0]
    assert advert.ledger_head == head(1, 11)
    for known in (None, head(1, 1), head(1, 11)):
        checks.advert(advert, known)
    for known, what in (
        (head(1, 12), "went back"),
        (replace(head(1, 11), hash=b"f" * 32), "forked"),
        (head(1, 0, "another"), "another population"),
    ):
        with pytest.raises(Bad, match=what):
            checks.advert(advert, known)


def test_blame_makes_an_error_of_what_is_bad_and_of_nothing_else(play):
    by_two = checks.blame(FaultySilo, name(2))
    with pytest.raises(FaultySilo, match="twice") as caught, by_two:
        checks.expect(False, "it came twice")
    assert caught.value.suspect == name(2)
    with (
        pytest.raises(ValueError, match="a bug of ours"),
        checks.blame(FaultyAggregator),
    ):
        raise ValueError("a bug of ours")
    innermost = checks.blame(FaultySilo, name(2))
    with pytest.raises(FaultySilo), checks.blame(FaultyAggregator), innermost:
        checks.expect(False, "it came twice")
