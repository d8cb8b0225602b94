"""The words that a round is skipped by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playbook import Play

from fedit_secure.aggregator.skipping import check_word
from fedit_secure.errors import ProtocolError
from fedit_secure.secagg import messages as m


def test_a_confirmation_is_of_this_charter_and_round() -> None:
    play = Play(4).run()
    word = play.heard(m.Confirmation, 1)[0]
    where = (play.cast.roster, play.cast.charter)
    check_word(*where, 1, word)
    for charter, round_ in ((b"Q" * 32, 1), (play.cast.charter, 2)):
        with pytest.raises(ProtocolError, match="another charter or round"):
            check_word(play.cast.roster, charter, round_, word)
    with pytest.raises(ProtocolError, match="signature"):
        check_word(*where, 1, replace(word, state_digest=b"x" * 32))


def test_a_silo_that_the_round_isnt_drawn_for_has_no_word_in_it() -> None:
    play = Play(4).run()
    word = play.heard(m.Confirmation, 1)[0]
    others = replace(play.cast.roster, drawn=frozenset({0, 2, 3}))
    with pytest.raises(ProtocolError, match="no silo has number 1 here"):
        check_word(others, play.cast.charter, 1, word)
