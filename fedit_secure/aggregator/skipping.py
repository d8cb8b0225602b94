"""How a round ends without a sum: t silos say so, each at its own deadline."""

from __future__ import annotations

import asyncio

from fedit_secure.errors import ProtocolError, QuorumLost
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.params import Roster


async def skip_certificate(
    request: m.SkipRequest, words: asyncio.Queue[m.Confirmation], charter: Charter
) -> m.RoundCertificate:
    """The certificate of t silos that the round ended in the state it began with.

    `words` are what silos confirm without a release, of whatever round. Raises QuorumLost
    if not enough of them came long after each silo's own deadline, ProtocolError for a word
    that isn't signed.
    """
    now, here = request.round, (request.round, request.state_digest)
    threshold, roster = charter.secagg_params().threshold, Cohorts(charter).roster(now)
    patience = charter.schedule.silo_deadline_seconds
    patience += 2 * charter.schedule.phase_deadline_seconds
    found: dict[int, m.Confirmation] = {}
    try:
        async with asyncio.timeout(patience):
            while len(found) < threshold:
                word = await words.get()  # or it came before we asked again
                if (word.round, word.state_digest) == here:
                    check_word(roster, request.charter, now, word)
                    found[word.silo] = word
    except TimeoutError:
        raise QuorumLost(
            f"round {now}: {len(found)} of {threshold} silos skip it"
        ) from None
    return m.RoundCertificate(now, tuple(found.values()))


def check_word(who: Roster, charter: bytes, round: int, word: m.Confirmation) -> None:
    """A silo that takes part in this round signed it for the round; else raises
    ProtocolError.
    """
    with checks.blame(ProtocolError):
        checks.signed(who, word)
        here = (word.charter, word.round) == (charter, round)
        checks.expect(here, "a confirmation of another charter or round")
