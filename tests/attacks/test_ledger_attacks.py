"""A silo that shows its peers another history of its spending."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playbook import (
    Play,
    assert_nothing_opened,
    assert_refused,
    assert_released,
    head,
    name,
)

from fedit_secure.errors import FaultySilo
from fedit_secure.secagg import messages as m

HEADS = {
    "ledger_rollback": (head(2, 3), "went back"),
    "ledger_fork": (replace(head(2, 11), hash=b"f" * 32), "forked"),
    "other_population": (head(2, 99, "somebody else"), "another population"),
}


@pytest.mark.parametrize("attack", HEADS)
def test_ledger(attack):
    bad, what = HEADS[attack]
    first = Play(4).run()
    assert first.cast.heads[0][2] == head(2, 11)
    play = first.next_round().cheat(m.Advert, 2, lambda a: replace(a, ledger_head=bad))
    play.run()
    for silo in (0, 1, 3):
        assert_refused(play, silo, FaultySilo, name(2), what)
        assert play.cast.heads[silo][2] == head(2, 11)  # the bad one isn't remembered
    assert not play.heard(m.ShareBundle, 0)
    assert_nothing_opened(play, corrupt=[2])


def test_ledger_fork_between_two_peers():
    """Each is shown another head: they differ in K, so they never come together."""
    play = Play(4)
    other = replace(head(2, 11), hash=b"f" * 32)

    def fork(u1):
        forged = play.by_silo(2, replace(u1.adverts[2], ledger_head=other))
        return replace(u1, adverts=(*u1.adverts[:2], forged, u1.adverts[3]))

    play.forge(m.AdvertSet, fork, to=0).run()
    keys = {b.statement.key_set for b in play.heard(m.ShareBundle)}
    assert len(keys) == 2
    assert 0 not in play.released.contributors
    assert not play.heard(m.MaskedUpload, 0)


def test_ledger_that_grows_or_stands_still_is_welcome():
    first = Play(4).run()
    assert_released(first, range(4))
    again = first.next_round(sequence=11).run()  # nothing was spent since
    assert_released(again, range(4))
    assert_released(again.next_round().run(), range(4))
