"""One silo's daemon: admit, reserve, tune, take part in the release, apply, confirm.

It dials out and follows the aggregator's lead, but believes nothing that it can check
itself: the charter is the one its operator approved, the global state is the one that t
silos certified, the sum is the one that it verified and applied itself. What it must not
forget is in `Books`, on disk, before anything leaves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from fedit_secure import __version__
from fedit_secure.errors import (
    ConnectError,
    DeadlineExceeded,
    FaultyAggregator,
    FeditError,
    FuseBlown,
    PolicyRefusal,
    ProtocolError,
    TuningFailed,
)
from fedit_secure.federation.approval import Approval, verify_approvals
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.hours import Hours
from fedit_secure.federation.update import GridState, check_float_mode
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.protocol import confirmation, voided
from fedit_secure.silo.attempts import Attempts
from fedit_secure.silo.books import Books
from fedit_secure.silo.claims import Claiming
from fedit_secure.silo.countersigning import Countersigning
from fedit_secure.silo.outbox import Outbox
from fedit_secure.silo.slots import Slots
from fedit_secure.silo.starting_hours import StartingHours
from fedit_secure.storage.life import MASKED
from fedit_secure.wire import frames as f
from fedit_secure.wire.link import SiloLink

_log = logging.getLogger(__name__)

Charge = Callable[[], Awaitable[None]]
Tune = Callable[[int, GridState, Charge], Awaitable[NDArray[np.float32]]]
Dial = Callable[[], Awaitable[SiloLink]]


class SiloDaemon:
    """One silo under one charter.

    `tune(round, state, charge)` runs DP-SGD and returns the noised update, float32 of
    shape (length,); it awaits `charge()` when everything that can fail has been tried,
    and before it draws the first record. It is called in the policy's `hours` only.
    `on_event(round, phase)` is for a display and must not block.
    """

    def __init__(
        self,
        charter: Charter,
        name: str,
        key: SigningKey,
        books: Books,
        tune: Tune,
        *,
        hours: Hours | None = None,
        on_event: Callable[[int, str], None] = lambda round, phase: None,
    ) -> None:
        check_float_mode()
        self._charter, self._digest, self._name = charter, charter.digest(), name
        self._me = s.Me(charter.silo_index(name), key)
        self._params = charter.secagg_params()
        self._books, self._tune, self._on_event = books, tune, on_event
        self._link: SiloLink | None = None
        self._outbox = Outbox()
        self._attempts = Attempts(charter, self._me, books, self._outbox, self._tell)
        self._tuning: asyncio.Task[None] | None = None
        self._countersigning = Countersigning(charter, name, books)
        self._skip: m.SkipRequest | None = None
        self._claiming = Claiming(charter, name, key, books, self.send)
        self._hours = StartingHours(hours, charter.schedule)

    @property
    def _round(self) -> int:
        return self._books.certified + 1

    # ------------------------------------------------------------------------ connections

    async def run(self, dial: Dial) -> GridState:
        """Serve until the run has ended; returns the final state.

        A lost connection is dialled again, and the attempt that was under way goes on.
        Raises ConnectError when `dial` gives up, and the aggregator's refusal with its
        exit status.
        """
        if self._books.life.state == MASKED:
            # This process has no secrets of that attempt any more: close it at once.
            fuse, _ = voided(self._me, self._round, 0, self._books.life.ctx)
            await asyncio.to_thread(self._books.burn, fuse)
        try:
            while True:
                link = await dial()
                try:
                    return await self._serve(link)
                except (ConnectError, DeadlineExceeded) as error:
                    _log.info("the connection ended: %s", error)
                finally:
                    self._link = None
                    self._outbox.disconnected()
                    with suppress(FeditError):
                        await link.close()
        finally:
            await self._claiming.stop()
            await self._stop_tuning()

    async def _serve(self, link: SiloLink) -> GridState:
        books = self._books
        standing = (books.certified, books.state_digest, books.sequence)
        hello = (self._digest, f.WIRE_VERSION, __version__, *standing)
        await link.send(f.Hello(self._name, *hello))
        welcome = await link.receive()
        if isinstance(welcome, f.CannotServe):
            raise welcome.error()
        if not isinstance(welcome, f.Welcome):
            raise ProtocolError(f"a {type(welcome).__name__} where a Welcome belongs")
        self._verify_approvals(welcome.approvals)
        await self._countersigning.meet(welcome.held)
        self._link = link
        if welcome.certificate is not None and welcome.round > books.certified:
            await self._adopt(welcome.certificate)
        await self._fetch_state(books.state_digest)
        await self._send_ledger()
        for record in books.records_to_resend():
            await link.send(record)
        if (attempt := self._attempts.forgotten) > 0:
            await link.send(f.Withdraw(self._round, attempt, "it holds no state of it"))
        self._attempts.last_progress = time.monotonic()  # being away is no deadline
        await self._outbox.connected(link)
        self._attempts.look_ahead()
        self._claiming.begin()
        while True:
            frame = await self._next_frame(link)
            if frame is None:
                await self._own_deadline()
            elif isinstance(frame, f.RunEnded):
                right = frame.state_digest == books.state_digest
                what = "it ended the run in a state without a quorum"
                checks.expect(right, what, FaultyAggregator)
                await self._claiming.finish()
                self._on_event(frame.round, "ended")
                return self._books.state()
            else:
                await self._take(frame)

    async def _next_frame(self, link: SiloLink) -> f.Frame | None:
        """The next frame; None at our own deadline. Raises what tuning failed with."""
        receiving = asyncio.ensure_future(link.receive())
        try:
            while not receiving.done():
                beside = {self._tuning, self._outbox.uploading} - {None}
                done, _ = await asyncio.wait(
                    {receiving, *beside},
                    timeout=self._patience(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    return None
                if self._tuning in done:
                    finished, self._tuning = self._tuning, None
                    finished.result()  # a disk that failed must not go unnoticed
                if self._outbox.uploading in done:
                    await self._end_upload()
            return receiving.result()
        finally:
            if not receiving.done():
                receiving.cancel()
                with suppress(asyncio.CancelledError):
                    await receiving

    async def _end_upload(self) -> None:
        self._attempts.last_progress = time.monotonic()
        try:
            self._outbox.uploaded()
        except ProtocolError as error:
            await self._sit_out(error)

    def _verify_approvals(self, approvals: tuple[bytes, ...]) -> None:
        read = [Approval.from_bytes(data, "an approval") for data in approvals]
        verify_approvals(self._charter, read)

    async def _take(self, frame: f.Frame) -> None:
        if isinstance(frame, f.CannotServe):
            raise frame.error()
        try:
            if isinstance(frame, f.RoundOffer):
                await self._take_round(frame)
            elif isinstance(frame, f.HeadReceipt):
                self._countersigning.take(frame)
            elif isinstance(frame, m.Offer):
                await self._attempts.enter(frame)
            elif isinstance(frame, m.RoundCertificate):
                await self._take_certificate(frame)
            elif isinstance(frame, m.SkipRequest):
                self._take_skip(frame)
            elif isinstance(frame, m.VoidRequest):
                await self._attempts.take_void(frame)
            elif isinstance(frame, m.VoidCertificate):
                await self._attempts.renew(frame)
            elif self._attempts.takes(frame):
                await self._attempts.step(frame)  # type: ignore[arg-type]
            else:
                _log.info("a %s came too late, or too early", type(frame).__name__)
        except (ProtocolError, FuseBlown) as error:
            await self._sit_out(error)

    async def _sit_out(self, error: FeditError) -> None:
        """Leave the attempt: its secrets go, and if it may be voided, we say so."""
        _log.warning("round %d: %s", self._round, error)
        with suppress(ConnectError, DeadlineExceeded):  # we leave, whoever hears of it
            await self.send(f.Withdraw(self._round, self._attempts.number, str(error)))
        await self._attempts.leave()

    async def send(self, frame: f.Frame) -> None:
        """To the aggregator; ConnectError while there is no connection."""
        if self._link is None:
            raise ConnectError("there is no connection to the aggregator")
        await self._link.send(frame)

    # ---------------------------------------------------------------------------- a round

    async def _take_round(self, offer: f.RoundOffer) -> None:
        """Check an offer against our own knowledge, then tune for it, once."""
        self._attempts.check_offer(offer.offer)
        if offer.certificate is not None and offer.certificate.round >= self._round:
            await self._adopt(offer.certificate)
        where = (offer.offer.round, offer.offer.state_digest)
        if where != (self._round, self._books.state_digest):
            raise FaultyAggregator(
                f"it offers round {where[0]} on a state that no quorum certified"
            )
        self._attempts.last_progress = time.monotonic()
        if self._books.update(self._round) is not None:
            await self._report_ready()
        elif self._tuning is None:
            self._verify_approvals(offer.approvals)
            self._tuning = asyncio.create_task(self._tune_round(self._round))

    async def _tune_round(self, now: int) -> None:
        books, slots = self._books, Slots(self._charter.schedule)

        async def charge() -> None:
            await slots.next()  # loading the records took its time too
            await asyncio.to_thread(books.reserve, now)
            charged = books.sequence
            # A connection that is gone now is made anew, and the ledger sent again: what
            # was charged must not be charged twice for it.
            with suppress(ConnectError, DeadlineExceeded):
                await self._send_ledger()
            # Nothing is sampled before the aggregator has countersigned the intent.
            await self._countersigning.signed(charged)

        try:
            await asyncio.to_thread(books.check_budget)
            await self._hours.wait(self._tell)
            self._tell("tuning")
            await self.send(f.Phase(now, "tuning"))
            update = await self._tune(now, books.state(), charge)
            # Before it is in the ledger: whoever breaks our links is sent that each time.
            await slots.next()
            await asyncio.to_thread(books.commit_update, now, update)
            await self._attempts.prepare(now)
            self._tell("tuned")
            await self._report_ready()
        except (PolicyRefusal, TuningFailed) as error:
            _log.warning("round %d: %s", now, error)
            self._tell("refused")
            # What made tuning fail may be a record: neither how nor when leaves.
            failed = isinstance(error, TuningFailed)
            reason = "its tuning failed" if failed else str(error)
            await slots.next()
            with suppress(ConnectError):
                await self.send(f.Refused(now, reason))
        except (ConnectError, DeadlineExceeded) as error:
            _log.info("round %d: %s; it is offered again", now, error)

    async def _report_ready(self) -> None:
        await self._attempts.prepare(self._round)
        await self._send_ledger()
        await self.send(f.Ready(self._round))

    async def _send_ledger(self) -> None:
        for page in self._countersigning.pages():
            await self.send(page)

    async def _stop_tuning(self) -> None:
        if self._tuning is not None and not self._tuning.done():
            self._tuning.cancel()
            with suppress(asyncio.CancelledError):
                await self._tuning
        self._tuning = None

    def _patience(self) -> float | None:
        """Seconds until this silo's own deadline; None while nothing is awaited."""
        if not self._attempts.active and self._skip is None:
            return None
        if self._outbox.uploading is not None:
            return None  # each of its chunks has a deadline of its own
        patience = self._charter.schedule.silo_deadline_seconds
        due = self._attempts.last_progress + patience
        return max(0.01, due - time.monotonic())

    async def _own_deadline(self) -> None:
        await self._attempts.leave()
        if self._skip is not None:
            request, self._skip = self._skip, None
            fuse, word = confirmation(
                self._me, self._digest, request.round, request.state_digest, b""
            )
            await self._confirm(fuse, word)

    # ------------------------------------------------------------------- ends of a round

    def _take_skip(self, request: m.SkipRequest) -> None:
        """Answered at our own deadline: the aggregator can't cut a live round short."""
        where = (self._round, 1, self._books.state_digest)
        roster = self._attempts.roster(self._round)
        session = s.Session(self._params, roster, self._digest, *where)
        checks.by_aggregator(session, request)
        ours = (request.charter, request.round, request.state_digest)
        if ours != (self._digest, self._round, self._books.state_digest):
            raise FaultyAggregator("it asked to skip another round")
        if not self._attempts.drawn:
            raise FaultyAggregator("it asked to skip a round that isn't drawn for us")
        if self._books.life.confirmed < self._round:
            self._skip = request

    async def _take_certificate(self, proof: m.RoundCertificate) -> None:
        if proof.round != self._round:
            return
        if len(proof.confirmations) >= self._params.threshold:
            await self._adopt(proof)
            self._claiming.begin()
            return
        who, one_honest = self._attempts.roster(proof.round), self._params.corrupt + 1
        digest, release = checks.certified(who, self._digest, proof, one_honest)
        unsaid = self._books.life.confirmed < proof.round
        waiting = unsaid and self._attempts.drawn
        if release and waiting and not self._attempts.will_verify:
            word = (proof.round, digest, release)
            fuse, statement = confirmation(self._me, self._digest, *word)
            await self._confirm(fuse, statement)

    async def _confirm(self, fuse: m.Fuse, word: m.Confirmation) -> None:
        await asyncio.to_thread(self._books.burn, fuse)
        await self.send(word)

    async def _adopt(self, proof: m.RoundCertificate) -> None:
        """Take exactly the state that t silos certified, even against our own."""
        who, signers = self._attempts.roster(proof.round), self._params.threshold
        digest, release = checks.certified(who, self._digest, proof, signers)
        if proof.round < self._round:
            return
        await self._fetch_state(digest)
        await self._stop_tuning()
        published = self._attempts.published
        await asyncio.to_thread(self._books.close_round, proof, published)
        self._attempts.round_closed()
        self._skip = None
        self._on_event(proof.round, "applied" if release else "skipped")
        self._attempts.look_ahead()
        await self._send_ledger()

    async def _fetch_state(self, digest: bytes) -> None:
        """Have the state of this digest on disk; what isn't it is refused."""
        if self._books.has_state(digest):
            return
        if (after := self._attempts.after) is not None and after.digest() == digest:
            await asyncio.to_thread(self._books.keep_state, after)
            return
        assert self._link is not None
        # Its integers, and names and shapes.
        size = 8 * self._charter.state_length + (1 << 24)
        check = lambda blob: GridState.from_bytes(blob).digest()  # noqa: E731
        blob = await self._link.fetch(digest, size, check)
        await asyncio.to_thread(self._books.keep_state, GridState.from_bytes(blob))

    def _tell(self, phase: str) -> None:
        self._on_event(self._round, phase)
