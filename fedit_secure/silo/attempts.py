"""A silo's seat in the releases of a round: it enters attempts, leaves them, closes them.

Between messages this is the one place that holds an attempt's state, and so its secrets.
A link that breaks changes nothing of it: the process that entered an attempt goes on with
it over the next link, and one that was restarted has nothing to go on with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedit_secure.driver import drive_silo
from fedit_secure.errors import FaultyAggregator, FuseBlown, ProtocolError
from fedit_secure.federation.aggregation import length_of
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.evaluation import coordinate
from fedit_secure.federation.readings import full_coordinate
from fedit_secure.federation.update import GridState, apply_update
from fedit_secure.secagg import checks, fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import BadSignature, verify
from fedit_secure.secagg.params import Roster
from fedit_secure.secagg.protocol import SILO, voided
from fedit_secure.silo.books import Books
from fedit_secure.silo.outbox import Outbox
from fedit_secure.silo.update_digest import update_digest
from fedit_secure.storage.life import MASKED, REVEALED, VOIDED

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A round's update as integers, its name before it was encoded, and the global state
    that it started from."""

    round: int
    values: NDArray[np.int32] = field(repr=False)
    update_digest: bytes
    before: GridState = field(repr=False)  # mapped from the disk, and checked


class Attempts:
    """See the module. `outbox` sends to the aggregator; `tell(phase)` is for a display.

    `published` is the sum of this round once this silo has verified it itself, and `after`
    the state that it gives. It is in memory until t silos certified it: what a silo confirms
    is a statement, which is durable, and the state it can always get by its digest.
    `last_progress` the time (monotonic seconds) of the last message that was accepted.
    """

    def __init__(
        self,
        charter: Charter,
        me: s.Me,
        books: Books,
        outbox: Outbox,
        tell: Callable[[str], None],
    ) -> None:
        self._charter, self._digest, self._me = charter, charter.digest(), me
        self._params, self._cohorts = charter.secagg_params(), Cohorts(charter)
        self._books, self._outbox, self._tell = books, outbox, tell
        self._state: s.SiloState | None = None
        self._session: s.Session | None = None
        self._prepared: _Prepared | None = None
        self.published: m.PublishedSum | None = None
        self.after: GridState | None = None
        self.last_progress = time.monotonic()

    @property
    def active(self) -> bool:
        """Whether an attempt is under way here."""
        return self._state is not None

    @property
    def number(self) -> int:
        """The attempt entered last in this process, 0 before any."""
        return 0 if self._session is None else self._session.attempt

    @property
    def will_verify(self) -> bool:
        """Whether this silo can check the sum itself: it holds G."""
        return isinstance(self._state, s.Revealed | s.Verified)

    def takes(self, frame: object) -> bool:
        """Whether the protocol has a step for this message now: not for one that was
        taken before and comes again over a new link."""
        if isinstance(frame, m.UploadAck) and getattr(self._state, "acked", False):
            return False
        return (type(self._state), type(frame)) in SILO

    @property
    def drawn(self) -> bool:
        """Whether this silo takes part in the round that comes next, or is under way."""
        return self._cohorts.takes(self._books.certified + 1, self._me.silo)

    def roster(self, round: int) -> Roster:
        """The silos whose signatures count in a round."""
        return self._cohorts.roster(round)

    def look_ahead(self) -> None:
        """Tell of a next round that this silo sits out: nothing will be heard of it."""
        if self._books.certified < self._charter.rounds and not self.drawn:
            self._tell("undrawn")

    def _session_of(self, offer: m.Offer) -> s.Session:
        where = (offer.round, offer.attempt, self._books.state_digest)
        roster = self.roster(offer.round)
        return s.Session(self._params, roster, self._digest, *where)

    def check_offer(self, offer: m.Offer) -> None:
        """Raises FaultyAggregator unless it is the aggregator's, of this charter, and of
        a round that isn't over and that is drawn for this silo."""
        checks.by_aggregator(self._session_of(offer), offer)
        ours = offer.charter == self._digest
        checks.expect(ours, "it offers a round of another charter", FaultyAggregator)
        live = offer.round > self._books.certified
        checks.expect(live, "it offers a round that is over", FaultyAggregator)
        planned = offer.round <= self._charter.rounds
        checks.expect(planned, "it offers a round after the last", FaultyAggregator)
        drawn = self._cohorts.takes(offer.round, self._me.silo)
        what = f"it offers round {offer.round}, which isn't drawn for this silo"
        checks.expect(drawn, what, FaultyAggregator)

    async def enter(self, offer: m.Offer) -> None:
        """Enter an attempt with this round's update; every earlier attempt is left.

        An offer of one that was entered before changes nothing: no attempt is entered
        twice, and a new link repeats what the old one may have lost.
        """
        life = self._books.life
        if (offer.round, offer.attempt) <= (life.round, life.attempt):
            _log.info("attempt %d was offered again", offer.attempt)
            return
        self.check_offer(offer)
        if offer.round != self._books.certified + 1:
            raise ProtocolError("invited to another round than the next")
        await self.prepare(offer.round)
        assert self._prepared is not None
        self._session = self._session_of(offer)
        self._state = s.Invited(
            self._session,
            self._me,
            self._prepared.values,
            self._prepared.update_digest,
            self._books.head(),
            self._books.peer_heads(),
        )
        await self.step(offer)

    async def prepare(self, round: int) -> None:
        """Encode this round's update, once: every attempt of the round takes the same
        integers, and nobody waits for it when an attempt begins.

        Raises:
            ProtocolError: there is no update of this round.
        """
        if self._prepared is None or self._prepared.round != round:
            self._prepared = await asyncio.to_thread(self._encode, round)

    def _encode(self, round: int) -> _Prepared:
        update = self._books.update(round)
        if update is None:
            raise ProtocolError("invited without an update for this round")
        charter, bound = self._charter, self._params.bound
        length = length_of(charter.released(round))
        evaluates = charter.roster[self._me.silo].held_out is not None
        if len(update) != length + evaluates:
            raise ProtocolError(f"an update of {len(update)} coordinates, not {length}")
        key = os.urandom(32)
        whole = np.zeros(self._params.length, np.float32)
        whole[:length] = update[:length]  # a round may release less than the largest
        if evaluates:
            # Scaled here, so that the encoding won't: it would scale the figure as well.
            if (peak := float(np.abs(whole).max())) > bound:
                _log.warning("round %d: the update was scaled to its bound", round)
                whole *= bound / peak * (1 - 2.0**-20)
            whole[-1] = coordinate(float(update[-1]), full_coordinate(charter), bound)
        encoded = fixed_point.encode(whole, self._params, self._me.silo, key)
        if encoded.scale < 1:
            _log.warning("round %d: the update was scaled to its bound", round)
        before = self._books.state()
        return _Prepared(round, encoded.values, update_digest(update), before)

    async def step(self, message: m.Message) -> None:
        """One message through the machine; raises what it raises."""
        assert self._state is not None
        self._state = await drive_silo(
            self._state, message, self._outbox, self._books, self._apply
        )
        if getattr(self._state, "acked", False):
            self._outbox.forget()  # nobody needs y_u any more
        self.last_progress = time.monotonic()
        if (phase := _PHASES.get(type(self._state))) is not None:
            self._tell(phase)

    async def _apply(self, published: m.PublishedSum) -> bytes:
        after = await asyncio.to_thread(self._applied, published)
        self.published, self.after = published, after
        return after.digest()

    def _applied(self, published: m.PublishedSum) -> GridState:
        assert self._prepared is not None  # no attempt is entered before
        what = (published.total, self._params, published.contributors)
        charter, prepared = self._charter, self._prepared
        released = charter.released(prepared.round)
        after = apply_update(prepared.before, *what, charter.server_rule, released)
        after.digest()
        return after

    async def leave(self) -> None:
        """Close the attempt, if it may still be voided; its secrets go in any case."""
        if self.takes(m.Deadline()):
            try:
                await self.step(m.Deadline())
            except FuseBlown as error:
                _log.info("the attempt can't be voided: %s", error)
        self._end()

    @property
    def forgotten(self) -> int:
        """The attempt of this round that this silo once entered and is in no more,
        because it was restarted or has left; 0 if there is none."""
        life, now = self._books.life, self._books.certified + 1
        gone = self._state is None and life.round == now and life.state != REVEALED
        return life.attempt if gone else 0

    def _end(self) -> None:
        self._state = None
        self._outbox.forget()

    def round_closed(self) -> None:
        """A certificate closed the round."""
        self._end()
        self._session, self._prepared = None, None
        self.published, self.after = None, None

    async def take_void(self, request: m.VoidRequest) -> None:
        """Close an attempt for ever: the one we are in, or one that we never entered."""
        now = self._books.certified + 1
        public, covered = self.roster(now).aggregator_key, request.signed_digest()
        try:
            verify(public, covered, request.signature)
        except BadSignature:
            raise FaultyAggregator("a wrong signature on its void request") from None
        inside = self._session is not None and request.ctx == self._session.ctx
        if inside and self.takes(request):
            await self.step(request)
            self._end()
            return
        record = self._books.record_of(request.ctx)
        if record is None and not self.drawn:
            # It came late, or means nothing: only those of the round can close it.
            _log.info("asked to void an attempt of a round that isn't drawn for us")
            return
        if record is None:
            fuse, record = voided(self._me, now, 0, request.ctx)
            await asyncio.to_thread(self._books.burn, fuse)
        if isinstance(record, m.VoidStatement):  # what was revealed can't be voided
            await self._outbox.say(record)

    async def renew(self, proof: m.VoidCertificate) -> None:
        """t silos closed the attempt: our upload in it stays noise, the update is free."""
        life = self._books.life
        if life.ctx != proof.ctx:
            return  # it closes nothing that is open here
        checks.void_certificate(self.roster(life.round), self._params, proof)
        if life.state in (MASKED, VOIDED):
            fuse = m.Fuse("renew", life.round, life.attempt, proof.ctx)
            await asyncio.to_thread(self._books.renewed, fuse, proof)
        if self._session is not None and self._session.ctx == proof.ctx:
            self._end()


_PHASES: dict[type, str] = {
    s.Advertised: "advertise",
    s.Shared: "share",
    s.Masked: "mask",
    s.Agreed: "agree",
    s.Revealed: "reveal",
    s.Confirmed: "confirm",
}
