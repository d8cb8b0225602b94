"""One silo's daemon: admit, reserve, tune, take part in the release, apply, confirm.

It dials out and follows the aggregator's lead, but believes nothing that it can check
itself: the charter is the one its operator approved, the global state is the one that t
silos certified, the sum is the one that it verified and applied itself. What it must not
forget is in `Books`, on disk, before anything leaves.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from fedit_secure import __version__
from fedit_secure.driver import drive_silo
from fedit_secure.errors import (
    ConnectError,
    DeadlineExceeded,
    FaultyAggregator,
    FeditError,
    FuseBlown,
    PolicyRefusal,
    ProtocolError,
    QuorumLost,
    TuningFailed,
)
from fedit_secure.federation.approval import Approval, verify_approvals
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.heads import check_head
from fedit_secure.federation.update import GridState, apply_update, check_float_mode
from fedit_secure.secagg import checks, fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify
from fedit_secure.secagg.protocol import SILO, confirmation, voided
from fedit_secure.silo.books import Books, update_digest
from fedit_secure.storage.life import MASKED, VOIDED
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
    and before it draws the first record. `on_event(round, phase)` is for a display and
    must not block.
    """

    def __init__(
        self,
        charter: Charter,
        name: str,
        key: SigningKey,
        books: Books,
        tune: Tune,
        *,
        on_event: Callable[[int, str], None] = lambda round, phase: None,
    ) -> None:
        check_float_mode()
        self._charter, self._digest, self._name = charter, charter.digest(), name
        self._me = s.Me(charter.silo_index(name), key)
        self._params, self._roster = charter.secagg_params(), charter.secagg_roster()
        self._books, self._tune, self._on_event = books, tune, on_event
        self._link: SiloLink | None = None
        self._attempt: s.SiloState | None = None
        self._session: s.Session | None = None
        self._published: m.PublishedSum | None = None
        self._tuning: asyncio.Task[None] | None = None
        self._receipt = asyncio.Event()
        self._skip: m.SkipRequest | None = None
        self._last_progress = time.monotonic()

    @property
    def _round(self) -> int:
        return self._books.certified + 1

    # ------------------------------------------------------------------------ connections

    async def run(self, dial: Dial) -> GridState:
        """Serve until the run has ended; returns the final state.

        A lost connection is dialled again. Raises ConnectError when `dial` gives up, and
        the aggregator's refusal with its exit status.
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
                    self._abandon()
                finally:
                    self._link = None
                    with suppress(FeditError):
                        await link.close()
        finally:
            await self._stop_tuning()

    async def _serve(self, link: SiloLink) -> GridState:
        books = self._books
        standing = (books.certified, books.state_digest, books.head().sequence)
        hello = (self._digest, f.WIRE_VERSION, __version__, *standing)
        await link.send(f.Hello(self._name, *hello))
        welcome = await link.receive()
        if isinstance(welcome, f.CannotServe):
            raise _refusal(welcome)
        if not isinstance(welcome, f.Welcome):
            raise ProtocolError(f"a {type(welcome).__name__} where a Welcome belongs")
        self._verify_approvals(welcome.approvals)
        self._link = link
        if welcome.certificate is not None and welcome.round > books.certified:
            await self._adopt(welcome.certificate)
        await self._fetch_state(books.state_digest)
        await self._send_ledger()
        for record in books.records_to_resend():
            await link.send(record)
        while True:
            frame = await self._next_frame(link)
            if frame is None:
                await self._own_deadline()
            elif isinstance(frame, f.RunEnded):
                if frame.state_digest != self._books.state_digest:
                    raise FaultyAggregator(
                        "it ended the run in a state without a quorum"
                    )
                self._tell("ended")
                return self._books.state()
            else:
                await self._take(frame)

    async def _next_frame(self, link: SiloLink) -> f.Frame | None:
        """The next frame; None at our own deadline. Raises what tuning failed with."""
        receiving = asyncio.ensure_future(link.receive())
        try:
            while not receiving.done():
                tuning = {self._tuning} if self._tuning is not None else set()
                done, _ = await asyncio.wait(
                    {receiving, *tuning},
                    timeout=self._patience(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    return None
                if self._tuning in done:
                    finished, self._tuning = self._tuning, None
                    finished.result()  # a disk that failed must not go unnoticed
            return receiving.result()
        finally:
            if not receiving.done():
                receiving.cancel()
                with suppress(asyncio.CancelledError):
                    await receiving

    def _verify_approvals(self, approvals: tuple[bytes, ...]) -> None:
        read = [Approval.from_bytes(data, "an approval") for data in approvals]
        verify_approvals(self._charter, read)

    async def _take(self, frame: f.Frame) -> None:
        if isinstance(frame, f.CannotServe):
            raise _refusal(frame)
        try:
            if isinstance(frame, f.RoundOffer):
                await self._take_round(frame)
            elif isinstance(frame, f.HeadReceipt):
                self._take_receipt(frame)
            elif isinstance(frame, m.Offer):
                await self._enter(frame)
            elif isinstance(frame, m.RoundCertificate):
                await self._take_certificate(frame)
            elif isinstance(frame, m.SkipRequest):
                self._take_skip(frame)
            elif isinstance(frame, m.VoidRequest):
                await self._take_void(frame)
            elif isinstance(frame, m.VoidCertificate):
                await self._renew(frame)
            elif (type(self._attempt), type(frame)) in SILO:
                await self._step(frame)
            else:
                _log.info("a %s came too late, or too early", type(frame).__name__)
        except (ProtocolError, FuseBlown) as error:
            await self._sit_out(error)

    async def _send(self, frame: f.Frame) -> None:
        if self._link is not None:
            await self._link.send(frame)

    # ---------------------------------------------------------------------------- a round

    async def _take_round(self, offer: f.RoundOffer) -> None:
        """Check an offer against our own knowledge, then tune for it, once."""
        self._check_offer(offer.offer)
        if offer.certificate is not None and offer.certificate.round >= self._round:
            await self._adopt(offer.certificate)
        where = (offer.offer.round, offer.offer.state_digest)
        if where != (self._round, self._books.state_digest):
            raise FaultyAggregator(
                f"it offers round {where[0]} on a state that no quorum certified"
            )
        self._last_progress = time.monotonic()
        if self._books.update(self._round) is not None:
            await self._report_ready()
        elif self._tuning is None:
            self._verify_approvals(offer.approvals)
            self._tuning = asyncio.create_task(self._tune_round(self._round))

    def _check_offer(self, offer: m.Offer) -> None:
        checks.by_aggregator(self._new_session(offer), offer)
        ours = offer.charter == self._digest
        checks.require(ours, FaultyAggregator, "it offers a round of another charter")
        stale = offer.round < self._round
        checks.require(not stale, FaultyAggregator, "it offers a round that is over")

    async def _tune_round(self, now: int) -> None:
        books, started = self._books, time.monotonic()

        async def charge() -> None:
            self._receipt.clear()
            await asyncio.to_thread(books.reserve, now)
            await self._send_ledger()
            # Nothing is sampled before the aggregator has countersigned the intent.
            await self._receipt.wait()

        try:
            await asyncio.to_thread(books.check_budget)
            self._tell("tuning")
            await self._send(f.Phase(now, "tuning"))
            update = await self._tune(now, books.state(), charge)
            await asyncio.to_thread(books.commit_update, now, update)
            self._tell("tuned")
            await self._send_ledger()
            slot = self._charter.schedule.ready_slot_seconds
            elapsed = time.monotonic() - started
            # Only at fixed slots, so that tuning time tells nothing about the records.
            await asyncio.sleep(math.ceil(elapsed / slot) * slot - elapsed)
            await self._report_ready()
        except (PolicyRefusal, TuningFailed) as error:
            _log.warning("round %d: %s", now, error)
            self._tell("refused")
            with suppress(ConnectError):
                await self._send(f.Refused(now, str(error)))
        except (ConnectError, DeadlineExceeded) as error:
            _log.info("round %d: %s; it is offered again", now, error)

    async def _report_ready(self) -> None:
        await self._send_ledger()
        await self._send(f.Ready(self._round))

    async def _send_ledger(self) -> None:
        head, signature, entries = self._books.signed_ledger()
        for page in f.ledger_pages(0, entries, head, signature):
            await self._send(page)

    def _take_receipt(self, receipt: f.HeadReceipt) -> None:
        check_head(
            self._name, self._roster.aggregator_key, receipt.head, receipt.signature
        )
        head = self._books.head()
        if receipt.head == head:
            self._books.countersigned(receipt.head, receipt.signature)
            self._receipt.set()

    async def _stop_tuning(self) -> None:
        if self._tuning is not None and not self._tuning.done():
            self._tuning.cancel()
            with suppress(asyncio.CancelledError):
                await self._tuning
        self._tuning = None

    # -------------------------------------------------------------------------- an attempt

    async def _enter(self, offer: m.Offer) -> None:
        """Enter an attempt with this round's update; every earlier attempt is left."""
        self._check_offer(offer)
        update = self._books.update(self._round)
        if update is None or offer.round != self._round:
            raise ProtocolError("invited without an update for this round")
        session = self._new_session(offer)
        seed = os.urandom(32)
        encoded = await asyncio.to_thread(
            fixed_point.encode, update, self._params, self._me.silo, seed
        )
        if encoded.scale < 1:
            _log.warning(
                "round %d: the update was scaled down to its bound", self._round
            )
        self._session = session
        self._attempt = s.Invited(
            session,
            self._me,
            encoded.values,
            update_digest(update),
            self._books.head(),
            self._books.peer_heads(),
        )
        await self._step(offer)

    async def _step(self, message: m.Message) -> None:
        assert self._attempt is not None
        assert self._link is not None
        self._attempt = await drive_silo(
            self._attempt, message, self._link, self._books, self._apply
        )
        self._last_progress = time.monotonic()
        phase = _PHASES.get(type(self._attempt))
        if phase is not None:
            self._tell(phase)

    async def _apply(self, published: m.PublishedSum) -> bytes:
        after = await asyncio.to_thread(
            apply_update,
            self._books.state(),
            published.total,
            self._params,
            published.contributors,
        )
        await asyncio.to_thread(self._books.keep_state, after)
        self._published = published
        return after.digest()

    async def _sit_out(self, error: FeditError) -> None:
        """Leave the attempt: its secrets go, and if it may be voided, we say so."""
        _log.warning("round %d: %s", self._round, error)
        attempt = self._session.attempt if self._session else 0
        await self._send(f.Withdraw(self._round, attempt, str(error)))
        await self._void_own()

    async def _void_own(self) -> None:
        if (type(self._attempt), m.Deadline) in SILO:
            try:
                await self._step(m.Deadline())
            except FuseBlown as error:
                _log.info("the attempt can't be voided: %s", error)
        self._attempt = None

    def _abandon(self) -> None:
        """The connection is gone: what wasn't masked is free, what was is voided later."""
        if not isinstance(self._attempt, s.Masked | s.Agreed | s.Revealed | s.Verified):
            self._attempt = None

    def _patience(self) -> float | None:
        """Seconds until this silo's own deadline; None while nothing is awaited."""
        if self._attempt is None and self._skip is None:
            return None
        due = self._last_progress + self._charter.schedule.silo_deadline_seconds
        return max(0.01, due - time.monotonic())

    async def _own_deadline(self) -> None:
        await self._void_own()
        if self._skip is not None:
            request, self._skip = self._skip, None
            fuse, word = confirmation(
                self._me, self._digest, request.round, request.state_digest, b""
            )
            await self._confirm(fuse, word)

    # ------------------------------------------------------------------- ends of a round

    def _take_skip(self, request: m.SkipRequest) -> None:
        """Answered at our own deadline: the aggregator can't cut a live round short."""
        checks.by_aggregator(self._any_session(), request)
        ours = (request.charter, request.round, request.state_digest)
        if ours != (self._digest, self._round, self._books.state_digest):
            raise FaultyAggregator("it asked to skip another round")
        if self._books.life.confirmed < self._round:
            self._skip = request

    async def _take_void(self, request: m.VoidRequest) -> None:
        """Close an attempt for ever: the one we are in, or one that we never entered."""
        try:
            verify(
                self._roster.aggregator_key, request.signed_digest(), request.signature
            )
        except BadSignature:
            raise FaultyAggregator("a wrong signature on its void request") from None
        inside = self._session is not None and request.ctx == self._session.ctx
        if inside and (type(self._attempt), m.VoidRequest) in SILO:
            await self._step(request)
            self._attempt = None
            return
        record = self._books.record_of(request.ctx)
        if record is None:
            fuse, record = voided(self._me, self._round, 0, request.ctx)
            await asyncio.to_thread(self._books.burn, fuse)
        if isinstance(record, m.VoidStatement):  # what was revealed can't be voided
            await self._send(record)

    async def _renew(self, proof: m.VoidCertificate) -> None:
        """t silos closed the attempt: our upload in it stays noise, the update is free."""
        checks.void_certificate(self._roster, self._params, proof)
        life = self._books.life
        if life.ctx == proof.ctx and life.state in (MASKED, VOIDED):
            fuse = m.Fuse("renew", life.round, life.attempt, proof.ctx)
            await asyncio.to_thread(self._books.renewed, fuse, proof)
        self._attempt = None

    async def _take_certificate(self, proof: m.RoundCertificate) -> None:
        if proof.round != self._round:
            return
        if len(proof.confirmations) >= self._params.threshold:
            await self._adopt(proof)
            return
        one_honest = self._params.corrupt + 1
        digest, release = checks.certified(
            self._roster, self._digest, proof, one_honest
        )
        waiting = self._books.life.confirmed < proof.round
        if (
            release
            and waiting
            and not isinstance(self._attempt, s.Revealed | s.Verified)
        ):
            word = (proof.round, digest, release)
            fuse, statement = confirmation(self._me, self._digest, *word)
            await self._confirm(fuse, statement)

    async def _confirm(self, fuse: m.Fuse, word: m.Confirmation) -> None:
        await asyncio.to_thread(self._books.burn, fuse)
        await self._send(word)

    async def _adopt(self, proof: m.RoundCertificate) -> None:
        """Take exactly the state that t silos certified, even against our own."""
        signers = self._params.threshold
        digest, release = checks.certified(self._roster, self._digest, proof, signers)
        if proof.round < self._round:
            return
        await self._fetch_state(digest)
        await self._stop_tuning()
        await asyncio.to_thread(self._books.close_round, proof, self._published)
        self._attempt, self._session, self._skip, self._published = (
            None,
            None,
            None,
            None,
        )
        self._tell("applied" if release else "skipped")
        await self._send_ledger()

    async def _fetch_state(self, digest: bytes) -> None:
        """Have the state of this digest on disk; what isn't it is refused."""
        if self._books.has_state(digest):
            return
        assert self._link is not None
        size = 8 * self._params.length + (1 << 24)  # its integers, and names and shapes
        check = lambda blob: GridState.from_bytes(blob).digest()  # noqa: E731
        blob = await self._link.fetch(digest, size, check)
        await asyncio.to_thread(self._books.keep_state, GridState.from_bytes(blob))

    def _new_session(self, offer: m.Offer) -> s.Session:
        where = (offer.round, offer.attempt, self._books.state_digest)
        return s.Session(self._params, self._roster, self._digest, *where)

    def _any_session(self) -> s.Session:
        where = (self._round, 1, self._books.state_digest)
        return s.Session(self._params, self._roster, self._digest, *where)

    def _tell(self, phase: str) -> None:
        self._on_event(self._round, phase)


_PHASES: dict[type, str] = {
    s.Advertised: "advertise",
    s.Shared: "share",
    s.Masked: "mask",
    s.Agreed: "agree",
    s.Revealed: "reveal",
    s.Confirmed: "confirm",
}


def _refusal(frame: f.CannotServe) -> FeditError:
    """The aggregator's reason, as the error with the exit status that it names."""
    for kind in (PolicyRefusal, QuorumLost):
        if kind.exit_status == frame.exit_status:
            return kind(frame.reason)
    return PolicyRefusal(frame.reason)
