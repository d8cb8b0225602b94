"""The aggregator: it brings the silos of one charter through all rounds of a run.

It sees ledgers, keys, masked uploads and sums. It never sees a record, an update, a loss,
and it never imports torch. What it does for one round: offer, wait until the silos are
ready, then attempts at a release until one is certified, or the round is skipped. Silos
that a round isn't drawn for stay connected, and are told how it ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from fedit_secure.aggregator.attempts import Attempts
from fedit_secure.aggregator.attendance import Attendance
from fedit_secure.aggregator.claims import Claims
from fedit_secure.aggregator.events import Event, Teller
from fedit_secure.aggregator.inbox import sender_of
from fedit_secure.aggregator.ledger_copies import LedgerCopies
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.skipping import skip_certificate
from fedit_secure.aggregator.sums import Sums
from fedit_secure.aggregator.turns import Turns
from fedit_secure.errors import (
    ConnectError,
    PolicyRefusal,
    ProtocolError,
    QuorumLost,
    StorageError,
)
from fedit_secure.federation.approval import Approval, verify_approvals
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.update import GridState, check_float_mode
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.messages import Blob
from fedit_secure.wire import frames as f
from fedit_secure.wire.link import PeerLink
from fedit_secure.wire.uploads import Uploads

_log = logging.getLogger(__name__)
MAX_ATTEMPTS = 10  # in one round; each is free for the silos until shares are revealed


class Aggregator:
    """See the module. `on_event` is called in the event loop and must not block.
    `uploads` is told which attempt takes uploads; links in memory have none.
    `earlier_ledgers` are folders of ledger copies that other runs left."""

    def __init__(
        self,
        charter: Charter,
        approvals: Sequence[Approval],
        key: SigningKey,
        folder: RunFolder,
        *,
        base_model: str | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        uploads: Uploads | None = None,
        earlier_ledgers: Sequence[Path] = (),
    ) -> None:
        verify_approvals(charter, approvals)
        check_float_mode()
        if charter.aggregator.identity != key.public.hex():
            raise PolicyRefusal("the charter pins another identity for the aggregator")
        self._charter, self._digest, self._key = charter, charter.digest(), key
        self._approvals = tuple(a.to_bytes() for a in approvals)
        self._folder = folder
        folder.keep_approvals(approvals)
        ledgers = folder.folder / "ledgers"
        self._copies = LedgerCopies(ledgers, charter, key, earlier_ledgers)
        self._claims = Claims(folder.folder / "claims", charter, self._copies)
        self._here, self._cohorts = Attendance(charter), Cohorts(charter)
        self._turns = Turns()
        self._words: asyncio.Queue[m.Confirmation] = asyncio.Queue()
        self._sums = Sums(folder, charter, base_model)
        self._teller = Teller(on_event, folder.progress.round)
        told = (self._sums, self._teller, uploads)
        self._attempts = Attempts(charter, key, folder, self._here, *told)
        self._ended, self._dismissed = False, ""
        self._running: asyncio.Task[object] | None = None
        self._failure: StorageError | None = None

    # -------------------------------------------------------------------- the connections

    def get(self, address: bytes) -> Blob | None:
        """BlobSource: the state of this digest. Called from worker threads."""
        return self._folder.states.find(address)

    async def on_connect(self, link: PeerLink, hello: f.Hello) -> None:
        """Serve one silo until its connection ends."""
        try:
            await self._serve(link, hello)
        except StorageError as error:
            # Of our own disk. No silo is turned away for it: the run ends, and when it is
            # started again all of them are still there.
            _log.error("silo %r can't be served: %s", link.name, error)
            self._failure = self._failure or error
            if self._running is not None:
                self._running.cancel()

    async def _serve(self, link: PeerLink, hello: f.Hello) -> None:
        if hello.charter != self._digest:
            raise self._charter.refusal_of(link.name, hello.charter)
        if self._dismissed:
            raise PolicyRefusal(self._dismissed)
        done = self._folder.progress.certified
        proof, held = self._folder.certificate(done), self._copies.receipt(link.name)
        state = self._folder.state().digest()
        await link.send(f.Welcome(self._approvals, proof, done, state, held))
        if self._ended:
            await link.send(f.RunEnded(done, state))
        self._here.come(link)
        self._teller.tell(link.name, "idle")
        try:
            if self._here.pending is not None and self._drawn(link):
                await link.send(self._here.pending)
            if not self._ended:
                await self._offer_round(link)
            await self._attempts.post.attach(link.silo, link, done)
            self._here.changed.set()
            while True:
                frame = await link.receive()
                if not self._here.newest(link):
                    break  # it dialled again: what is left of this link comes too late
                await self._take(link, frame)
        except ConnectError:
            _log.info("silo %r disconnected", link.name)
        finally:
            if self._here.leave(link):
                self._attempts.post.detach(link.silo)
                self._teller.tell(link.name, "away")

    async def _take(self, link: PeerLink, frame: f.Frame) -> None:
        now = self._folder.progress.round
        if isinstance(frame, f.LedgerEntries):
            extend = partial(self._copies.extend, link.name, frame)
            receipt = await self._turns.take(link.silo, extend)
            if receipt is not None:
                with suppress(ConnectError):  # it has gone, but its claim is under way
                    await link.send(receipt)
        elif isinstance(frame, f.Ready):
            if frame.round == now and self._drawn(link):
                self._here.ready.add(link.silo)
                self._teller.tell(link.name, "tuned")
        elif isinstance(frame, f.Refused):
            if frame.round == now and self._drawn(link):
                _log.warning("silo %r refuses: %s", link.name, frame.reason)
                self._here.refused[link.silo] = frame.reason
                self._teller.tell(link.name, "refused")
        elif isinstance(frame, f.Claim):
            keep = partial(self._claims.keep, link.name, frame.document)
            await self._turns.take(link.silo, keep)
        elif isinstance(frame, f.Phase):
            self._teller.tell(link.name, frame.name)
        elif isinstance(frame, f.Withdraw):
            _log.warning("silo %r left the attempt: %s", link.name, frame.reason)
            self._attempts.lose(link.silo)
        else:
            await self._take_message(link, frame)
        self._here.changed.set()

    async def _take_message(self, link: PeerLink, frame: f.Frame) -> None:
        if sender_of(frame) != link.silo:  # nobody speaks for another silo
            raise ProtocolError(f"silo {link.name!r} sent another silo's message")
        if not self._drawn(link):  # of a round before this one, or of none
            what = type(frame).__name__
            _log.info("silo %r sits the round out: its %s isn't taken", link.name, what)
        elif isinstance(frame, m.Confirmation) and not frame.release_digest:
            self._words.put_nowait(frame)
        else:
            self._attempts.take(link.silo, frame)

    async def dismiss(self, reason: str) -> None:
        """Tell every silo, also one that comes later, that this run goes on no more."""
        self._dismissed = reason
        await self._here.broadcast(f.CannotServe(reason, PolicyRefusal.exit_status))

    # ------------------------------------------------------------------------- the rounds

    async def run(self, may_go_on: Callable[[], bool] = lambda: True) -> GridState:
        """All rounds that are left, while one `may_go_on`; returns the last state.

        Raises QuorumLost when too few silos can or will go on, StorageError when the disk
        refuses what has to be there.
        """
        self._running = asyncio.current_task()
        try:
            if self._failure is not None:
                raise self._failure
            return await self._rounds(may_go_on)
        except asyncio.CancelledError:
            if self._failure is not None:
                raise self._failure from None
            raise

    async def _rounds(self, may_go_on: Callable[[], bool]) -> GridState:
        # Started after its end, the run is there for the silos that were away.
        names = [row.name for row in self._charter.roster]
        late = self._folder.progress.certified == self._charter.rounds
        if done := self._folder.progress.certified:
            # An earlier process may not have got to it.
            await self._sums.save(done, self._folder.state())
        try:
            while (now := self._folder.progress.round) <= self._charter.rounds:
                if not may_go_on():
                    return self._folder.state()
                await self._round(now)
        except QuorumLost as error:
            await self._here.broadcast(f.CannotServe(str(error), error.exit_status))
            raise
        finally:
            await self._sums.saved()
        state = self._folder.state()
        await self._claims.gather(
            lambda: names if late else [link.name for link in self._here.connected()],
            self._here.changed,
            self._charter.schedule.phase_deadline_seconds,
        )
        self._ended = True
        await self._here.broadcast(
            f.RunEnded(self._folder.progress.certified, state.digest())
        )
        self._teller.tell("", "ended")
        return state

    async def _round(self, now: int) -> None:
        self._teller.now = now
        self._attempts.post.start(now)
        before = self._folder.state()
        self._here.begin(self._cohorts.of(now))
        started = time.monotonic()
        if self._folder.progress.open:
            left = await self._attempts.close_open(before)
            if isinstance(left, s.Ended) and not left.free:
                await self._skip(now, before, "an attempt was cut off")
            if isinstance(left, s.Certified) or not left.free:
                return
        self._teller.tell("", "tuning")
        for link in self._here.connected():
            await self._offer_round(link)
        for _ in range(MAX_ATTEMPTS):
            await self._here.gather(started)
            self._folder.metric(now, "tuning", time.monotonic() - started)
            result = await self._attempts.release(now, before)
            if isinstance(result, s.Certified):
                return
            _log.warning("round %d: no sum: %s", now, result.reason)
            if not result.free:
                break
        await self._skip(now, before, "no attempt ended in a sum")

    async def _offer_round(self, link: PeerLink) -> None:
        progress = self._folder.progress
        if progress.round > self._charter.rounds:
            return
        if not self._drawn(link):
            self._teller.tell(link.name, "undrawn")
            return
        if (
            self._charter.silos_per_round is not None
        ):  # it may have sat the last one out
            self._teller.tell(link.name, "idle")
        where = (progress.round, progress.attempt + 1, self._folder.state().digest())
        offer = checks.sign(self._key, m.Offer(self._digest, *where))
        certificate = self._folder.certificate(progress.certified)
        try:
            await link.send(f.RoundOffer(offer, certificate, self._approvals))
        except ConnectError:
            _log.info("silo %r left before its offer", link.name)

    def _drawn(self, link: PeerLink) -> bool:
        """Whether the silo takes part in the round under way."""
        return self._cohorts.takes(self._folder.progress.round, link.silo)

    async def _skip(self, now: int, before: GridState, reason: str) -> None:
        """Close the round with the state unchanged: t silos of it must say so."""
        request = m.SkipRequest(self._digest, now, before.digest())
        request = self._here.pending = checks.sign(self._key, request)
        self._teller.tell("", "skipped")
        _log.warning("round %d is skipped: %s", now, reason)
        await self._here.tell_cohort(request)
        try:
            certificate = await skip_certificate(request, self._words, self._charter)
        finally:
            self._here.pending = None
        await asyncio.to_thread(self._folder.certify, now, certificate)
        await self._sums.save(now, before)
        await self._here.broadcast(certificate)
