"""Attempts at the release of a round, one at a time: from the invitations to the
certificate, or to an end without a sum.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import replace

from fedit_secure.aggregator.attendance import Attendance
from fedit_secure.aggregator.events import Teller, phase_of
from fedit_secure.aggregator.inbox import Inbox
from fedit_secure.aggregator.post import Post
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.sums import Sums
from fedit_secure.driver import Resume, drive_aggregator
from fedit_secure.errors import FaultyAggregator, ProtocolError, QuorumLost
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.wire import frames as f
from fedit_secure.wire.uploads import Uploads

_log = logging.getLogger(__name__)


class Attempts:
    """See the module. `post` is what silos are told in the attempt under way; `uploads` is
    told which attempt takes uploads, and links in memory have none.
    """

    def __init__(
        self,
        charter: Charter,
        key: SigningKey,
        folder: RunFolder,
        here: Attendance,
        sums: Sums,
        teller: Teller,
        uploads: Uploads | None,
    ) -> None:
        self._charter, self._digest, self._key = charter, charter.digest(), key
        self._params, self._roster = charter.secagg_params(), charter.secagg_roster()
        self._folder, self._here, self._sums = folder, here, sums
        self._teller, self._uploads = teller, uploads
        self._inbox: Inbox | None = None  # while an attempt is under way
        self._early: dict[tuple[int, type], f.Frame] = {}  # before an open one goes on
        self.post = Post(self.lose, charter.schedule.phase_deadline_seconds)

    def take(self, silo: int, frame: f.Frame) -> None:
        """A silo's own message of an attempt."""
        if self._inbox is not None:
            self._inbox.put_nowait((silo, frame))  # type: ignore[arg-type]
        elif self._folder.progress.open:  # it is said once to each process of ours
            self._early[silo, type(frame)] = frame

    def lose(self, silo: int) -> None:
        """A silo has left the attempt, or is away for too long."""
        if self._inbox is not None:
            self._inbox.put_nowait((silo, m.Lost(silo)))
        self._here.changed.set()

    async def release(self, now: int, before: GridState) -> s.Certified | s.Ended:
        """The next attempt of a round, by the silos that are ready for it.

        Raises QuorumLost when what was published can't be certified, and FaultyAggregator
        when a quorum certified something else.
        """
        attempt = self._folder.progress.attempt + 1
        progress = replace(self._folder.progress, attempt=attempt, open=True)
        self._folder.enter(progress)
        session = self.session(now, attempt, before)
        began = time.monotonic()
        result = await self._drive(session, before, None)
        self._folder.metric(now, "release", time.monotonic() - began)
        return result

    async def close_open(self, before: GridState) -> s.Certified | s.Ended:
        """An earlier process left an attempt open. Silos may have applied its sum, if one
        was published: go on from there. Else t void statements make it harmless."""
        progress = self._folder.progress
        session = self.session(progress.round, progress.attempt, before)
        everyone = (session, self._key, frozenset(range(self._params.silos)))
        out = self._folder.published(progress.round)
        resume: Resume
        if out is not None and out.ctx == session.ctx:
            resume, self._here.pending = s.Published(*everyone, out), out
        else:
            resume = s.Voiding(*everyone, "the aggregator was restarted")
            self._here.pending = checks.sign(self._key, m.VoidRequest(session.ctx))
        await self._here.broadcast(self._here.pending)
        await self._here.enough()
        return await self._drive(session, before, resume)

    def session(self, now: int, attempt: int, before: GridState) -> s.Session:
        """An attempt of a round on a global state."""
        where = (self._digest, now, attempt, before.digest())
        return s.Session(self._params, self._roster, *where)

    async def _drive(
        self, session: s.Session, before: GridState, resume: Resume | None
    ) -> s.Certified | s.Ended:
        seconds = self._charter.schedule.phase_deadline_seconds
        self._inbox = inbox = Inbox(seconds, self._params.payload_bytes, self._uploads)
        inbox.fill({} if resume is None else self._early)
        self.post.start(session.round)
        self._sums.forget()

        async def on_state(state: s.AggregatorState) -> None:
            inbox.enter(state)
            await self._note(session, before, state)

        try:
            result = await drive_aggregator(
                session, self._key, self._here.ready, inbox, self.post.send,
                math.inf, on_state, resume,
            )  # fmt: skip
        except ProtocolError as error:  # a dealer's or contributor's, proved or not
            lost = isinstance(error, QuorumLost) and resume is None
            if lost or isinstance(error, FaultyAggregator):  # which is this one
                raise
            _log.warning("round %d: %s", session.round, error)
            result = s.Ended(str(error), free=False)
        finally:
            self._inbox, self._here.pending = None, None
            inbox.close()
        if isinstance(result, s.Ended):
            self._folder.enter(replace(self._folder.progress, open=not result.free))
        return result

    async def _note(
        self, session: s.Session, before: GridState, state: s.AggregatorState
    ) -> None:
        """Keep the transcript, and apply the sum as every silo does."""
        now = session.round
        if phase := phase_of(state):
            self._teller.tell("", phase)
        if isinstance(state, s.Sharing):
            self._folder.record(now, "adverts", state.adverts)
        elif isinstance(state, s.Published):
            await self._sums.publish(now, state.published, before)
        elif isinstance(state, s.Certified):  # on disk before any silo closes the round
            await self._close(now, state.certificate)

    async def _close(self, now: int, certificate: m.RoundCertificate) -> None:
        after = await self._sums.certified(certificate)
        await asyncio.to_thread(self._folder.certify, now, certificate)
        self._teller.tell("", "certified")
        await self._sums.save(now, after)
