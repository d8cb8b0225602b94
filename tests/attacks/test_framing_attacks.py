"""Who is blamed: never an honest silo, whoever wants it so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from playbook import Play, assert_blamed, assert_nothing_leaked, assert_refused, name

from fedit_secure.errors import (
    AttemptFailed,
    FaultyAggregator,
    FaultySilo,
    FaultySiloOrAggregator,
    ProtocolError,
)
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m

KINDS = [m.Offer, m.AdvertSet, m.ShareSet, m.UploadAck, m.SurvivorSet, m.AgreementSet]
KINDS += [m.PublishedSum]


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """(place, the value with one change there), for every place at every depth; of a tuple
    its last entry, left out, doubled, and changed within."""
    if isinstance(value, bytes):
        yield "", bytes([value[0] ^ 1, *value[1:]]) if value else b"\x01"
    elif isinstance(value, int):
        yield "", value + 1
    elif isinstance(value, np.ndarray):
        yield "", value + np.int32(1)
    elif isinstance(value, tuple) and value:
        if isinstance(value[0], int):  # (silo, bytes), or a list of silos
            for at, item in enumerate(value):
                for place, other in changed(item):
                    yield f"[{at}]{place}", (*value[:at], other, *value[at + 1 :])
            return
        yield "[:-1]", value[:-1]
        yield "[doubled]", (*value, value[-1])
        for place, other in changed(value[-1]):
            yield f"[-1]{place}", (*value[:-1], other)
    elif is_dataclass(value):
        for f in (x for x in fields(value) if x.init):
            for place, other in changed(getattr(value, f.name)):
                yield f".{f.name}{place}", replace(value, **{f.name: other})


def places(kind: type) -> list[str]:
    message = shown(kind)
    return [place for place, _ in changed(message)]


def shown(kind: type) -> Any:
    play = Play(4).run()
    return play.got(kind, 0)[0]


CASES = [(kind, place) for kind in KINDS for place in places(kind)]
OWN = {FaultyAggregator, AttemptFailed, ProtocolError}


@pytest.mark.parametrize(
    ("kind", "place"), CASES, ids=[f"{k.__name__}{p}" for k, p in CASES]
)
def test_framing_by_the_aggregator(kind, place):
    """It changes anything in what it relays, and signs it: no silo takes that for proof
    against another. Only a sum that doesn't verify leaves the question open."""
    play = Play(4)

    def change(message):
        altered = dict(changed(message))[place]
        if not hasattr(altered, "signature") or place == ".signature":
            return altered
        return play.by_aggregator(altered)

    play.alter(kind, change, to=0).run()
    assert 0 in play.errors or harmless(kind, place), place
    for error in play.errors.values():
        assert type(error) is not FaultySilo, error
        if isinstance(error, FaultySiloOrAggregator):
            assert kind is m.PublishedSum
            assert error.suspect == "any contributor"
        else:
            assert type(error) in OWN
    assert_nothing_leaked(play)


def harmless(kind: type, place: str) -> bool:
    """A set that is smaller and still large enough is the aggregator's to name. What a
    published sum says of its quorum, silos have seen; and agreements name their attempt."""
    if kind is m.PublishedSum:
        return ".agreements" in place
    smaller = place in (".adverts[:-1]", ".headers[:-1]", ".agreements[:-1]")
    return smaller or (kind is m.AgreementSet and place == ".ctx")


SAID = [m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal, m.Confirmation]


def renamed(message: Any, silo: int) -> Any:
    """The same under another silo's name, with the signature that it has."""
    for part, field in (("statement", "dealer"), ("header", "silo")):
        if hasattr(message, part):
            inner = replace(getattr(message, part), **{field: silo})
            return replace(message, **{part: inner})
    return replace(message, silo=silo)


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("resigned", [False, True])
def test_framing_by_another_silo(kind, resigned):
    """Silo 0 speaks as silo 1, with its own signature, old or new: that proves nothing
    against silo 1, which stays in."""
    play = Play(4)

    def both(message):
        forged = renamed(message, 1)
        return [play.by_silo(0, forged) if resigned else forged, message]

    play.alter(kind, both, sender=0).run()
    inner = {m.ShareBundle: "ShareStatement", m.MaskedUpload: "UploadHeader"}
    what = inner.get(kind, kind.__name__)
    assert_blamed(play, ProtocolError, None, f"a wrong signature on {what}")
    assert not any(getattr(e, "suspect", "") == name(1) for e in play.blame)
    assert play.released is not None
    assert 1 in play.released.contributors
    assert_nothing_leaked(play, corrupt=[0])


def test_framing_of_a_dealer_by_a_replayed_statement():
    """An honest dealer's own words of an earlier attempt, shown in this one."""
    first = Play(4).run()
    again = first.next_round()
    old = first.heard(m.ShareBundle, 2)[0].statement

    def replayed(u2):
        statements = tuple(old if x.dealer == 2 else x for x in u2.statements)
        return replace(u2, statements=statements)

    again.forge(m.ShareSet, replayed, to=0).run()
    what = "U2 has an entry of another attempt"
    assert_refused(again, 0, FaultyAggregator, "aggregator", what)
    assert not again.heard(m.MaskedUpload, 0)
    assert_nothing_leaked(again)


def test_requests_by_another_than_the_aggregator():
    """What closes an attempt or a round comes from the aggregator, in this attempt, or is
    held against it: a silo relays nothing of the kind."""
    play = Play(4)
    real = play.by_aggregator(m.VoidRequest(play.session.ctx))
    checks.by_aggregator(play.session, real)
    skip = m.SkipRequest(play.cast.charter, 1, b"d" * 32)
    for bad, what in (
        (play.by_silo(0, real), "a wrong signature on VoidRequest"),
        (play.by_silo(0, skip), "a wrong signature on SkipRequest"),
        (play.by_aggregator(m.VoidRequest(b"o" * 32)), "of another attempt"),
    ):
        with pytest.raises(FaultyAggregator, match=what):
            checks.by_aggregator(play.session, bad)


def test_the_aggregator_s_framing_reaches_into_every_message():
    reached = {kind for kind, _ in CASES}
    assert reached == set(KINDS)
    assert len(CASES) > 60
