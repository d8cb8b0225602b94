"""Which silos a round is drawn for: a public function of charter and round number.

Nobody chooses it. Neither the aggregator nor who turns up has any part in it, every party
computes it by itself, and a round that fails is tried again with the same silos. It is no
secret either, so no privacy is claimed for being left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from fedit_secure.federation.charter import Charter
from fedit_secure.secagg.params import Roster
from fedit_secure.secagg.transcript import digest, u64


@lru_cache(maxsize=256)
def draw(charter: bytes, round: int, silos: int, size: int) -> tuple[int, ...]:
    """The `size` roster indices, of `silos`, that a round is drawn for, sorted.

    They are those with the smallest H("fedit/cohort/v1" || R || round || index), compared
    as bytes, where R is the digest `charter`. So every set of this size is as likely as any
    other, whatever other rounds drew.
    """

    def lot(index: int) -> bytes:
        return digest("fedit/cohort/v1", charter, u64(round), u64(index))

    return tuple(sorted(sorted(range(silos), key=lot)[:size]))


class Cohorts:
    """The silos of each round of one charter: those drawn, or the whole roster."""

    def __init__(self, charter: Charter) -> None:
        self._digest, self._size = charter.digest(), charter.silos_per_round
        self._roster = charter.secagg_roster()

    def of(self, round: int) -> tuple[int, ...]:
        """The roster indices that a round, counted from 1, is drawn for, sorted."""
        silos = len(self._roster.members)
        if self._size is None:
            return tuple(range(silos))
        return draw(self._digest, round, silos, self._size)

    def takes(self, round: int, silo: int) -> bool:
        """Whether a silo takes part in a round."""
        return self._size is None or silo in self.of(round)

    def roster(self, round: int) -> Roster:
        """The roster in which only a round's silos count."""
        if self._size is None:
            return self._roster
        return replace(self._roster, drawn=frozenset(self.of(round)))

    def names(self, round: int) -> tuple[str, ...]:
        """The names of a round's silos, in roster order."""
        return tuple(self._roster.name(silo) for silo in self.of(round))
