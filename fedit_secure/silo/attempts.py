"""A silo's seat in the releases of a round: it enters attempts, leaves them, closes them.

Between messages this is the one place that holds an attempt's state, and so its secrets.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from fedit_secure.driver import SendFrame, drive_silo
from fedit_secure.errors import FaultyAggregator, FuseBlown, ProtocolError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import apply_update
from fedit_secure.secagg import checks, fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import BadSignature, verify
from fedit_secure.secagg.protocol import SILO, voided
from fedit_secure.silo.books import Books, update_digest
from fedit_secure.storage.life import MASKED, VOIDED

_log = logging.getLogger(__name__)


class Attempts:
    """See the module. `outlet` sends to the aggregator; `tell(phase)` is for a display.

    `published` is the sum of this round once this silo has verified it itself;
    `last_progress` the time (monotonic seconds) of the last message that was accepted.
    """

    def __init__(
        self,
        charter: Charter,
        me: s.Me,
        books: Books,
        outlet: SendFrame,
        tell: Callable[[str], None],
    ) -> None:
        self._charter, self._digest, self._me = charter, charter.digest(), me
        self._params, self._roster = charter.secagg_params(), charter.secagg_roster()
        self._books, self._outlet, self._tell = books, outlet, tell
        self._state: s.SiloState | None = None
        self._session: s.Session | None = None
        self.published: m.PublishedSum | None = None
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
        """Whether the protocol has a step for this message now."""
        return (type(self._state), type(frame)) in SILO

    def check_offer(self, offer: m.Offer) -> None:
        """Raises FaultyAggregator unless it is the aggregator's, of this charter, and of
        a round that isn't over."""
        where = (offer.round, offer.attempt, self._books.state_digest)
        session = s.Session(self._params, self._roster, self._digest, *where)
        checks.by_aggregator(session, offer)
        ours = offer.charter == self._digest
        checks.expect(ours, "it offers a round of another charter", FaultyAggregator)
        live = offer.round > self._books.certified
        checks.expect(live, "it offers a round that is over", FaultyAggregator)

    async def enter(self, offer: m.Offer) -> None:
        """Enter an attempt with this round's update; every earlier attempt is left."""
        self.check_offer(offer)
        update = self._books.update(offer.round)
        if update is None or offer.round != self._books.certified + 1:
            raise ProtocolError("invited without an update for this round")
        encoded = await asyncio.to_thread(
            fixed_point.encode, update, self._params, self._me.silo, os.urandom(32)
        )
        if encoded.scale < 1:
            _log.warning("round %d: the update was scaled to its bound", offer.round)
        where = (offer.round, offer.attempt, self._books.state_digest)
        self._session = s.Session(self._params, self._roster, self._digest, *where)
        self._state = s.Invited(
            self._session,
            self._me,
            encoded.values,
            update_digest(update),
            self._books.head(),
            self._books.peer_heads(),
        )
        await self.step(offer)

    async def step(self, message: m.Message) -> None:
        """One message through the machine; raises what it raises."""
        assert self._state is not None
        self._state = await drive_silo(
            self._state, message, self._outlet, self._books, self._apply
        )
        self.last_progress = time.monotonic()
        if (phase := _PHASES.get(type(self._state))) is not None:
            self._tell(phase)

    async def _apply(self, published: m.PublishedSum) -> bytes:
        contributors = published.contributors
        after = await asyncio.to_thread(
            apply_update,
            self._books.state(),
            published.total,
            self._params,
            contributors,
        )
        await asyncio.to_thread(self._books.keep_state, after)
        self.published = published
        return after.digest()

    async def leave(self) -> None:
        """Close the attempt, if it may still be voided; its secrets go in any case."""
        if self.takes(m.Deadline()):
            try:
                await self.step(m.Deadline())
            except FuseBlown as error:
                _log.info("the attempt can't be voided: %s", error)
        self._state = None

    def connection_lost(self) -> None:
        """What wasn't masked is free; what was waits for its void, or for the sum."""
        if not isinstance(self._state, s.Masked | s.Agreed | s.Revealed | s.Verified):
            self._state = None

    def round_closed(self) -> None:
        """A certificate closed the round."""
        self._state, self._session, self.published = None, None, None

    async def take_void(self, request: m.VoidRequest) -> None:
        """Close an attempt for ever: the one we are in, or one that we never entered."""
        public, covered = self._roster.aggregator_key, request.signed_digest()
        try:
            verify(public, covered, request.signature)
        except BadSignature:
            raise FaultyAggregator("a wrong signature on its void request") from None
        inside = self._session is not None and request.ctx == self._session.ctx
        if inside and self.takes(request):
            await self.step(request)
            self._state = None
            return
        record = self._books.record_of(request.ctx)
        if record is None:
            now = self._books.certified + 1
            fuse, record = voided(self._me, now, 0, request.ctx)
            await asyncio.to_thread(self._books.burn, fuse)
        if isinstance(record, m.VoidStatement):  # what was revealed can't be voided
            await self._outlet.send(record)

    async def renew(self, proof: m.VoidCertificate) -> None:
        """t silos closed the attempt: our upload in it stays noise, the update is free."""
        checks.void_certificate(self._roster, self._params, proof)
        life = self._books.life
        if life.ctx == proof.ctx and life.state in (MASKED, VOIDED):
            fuse = m.Fuse("renew", life.round, life.attempt, proof.ctx)
            await asyncio.to_thread(self._books.renewed, fuse, proof)
        self._state = None


_PHASES: dict[type, str] = {
    s.Advertised: "advertise",
    s.Shared: "share",
    s.Masked: "mask",
    s.Agreed: "agree",
    s.Revealed: "reveal",
    s.Confirmed: "confirm",
}
