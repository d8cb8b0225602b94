"""The aggregator: it brings the silos of one charter through all rounds of a run.

It sees ledgers, keys, masked uploads and sums. It never sees a record, an update, a loss,
and it never imports torch. What it does for one round: offer, wait until the silos are
ready, then attempts at a release until one is certified, or the round is skipped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fedit_secure.aggregator.claims import Claims
from fedit_secure.aggregator.events import Event, Teller, phase_of
from fedit_secure.aggregator.inbox import Inbox, sender_of
from fedit_secure.aggregator.ledger_copies import LedgerCopies
from fedit_secure.aggregator.post import Post
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.skipping import skip_certificate
from fedit_secure.aggregator.sums import Sums
from fedit_secure.driver import Resume, drive_aggregator
from fedit_secure.errors import (
    ConnectError,
    FaultyAggregator,
    FeditError,
    PolicyRefusal,
    ProtocolError,
    QuorumLost,
)
from fedit_secure.federation.approval import Approval, verify_approvals
from fedit_secure.federation.charter import Charter
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
        self._params, self._roster = charter.secagg_params(), charter.secagg_roster()
        ledgers = folder.folder / "ledgers"
        self._copies = LedgerCopies(ledgers, charter, key, earlier_ledgers)
        self._claims = Claims(folder.folder / "claims", charter, self._copies)
        self._links: dict[int, PeerLink] = {}
        self._seen: set[int] = set()  # connected at some time in this round
        self._ready: set[int] = set()
        self._refused: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._attempt: Inbox | None = None
        self._early: dict[tuple[int, type], f.Frame] = {}  # before an open one goes on
        self._uploads = uploads
        self._post = Post(self._lose, charter.schedule.phase_deadline_seconds)
        self._words: asyncio.Queue[m.Confirmation] = asyncio.Queue()
        self._sums = Sums(folder, charter, base_model)
        self._pending: f.Frame | None = None  # told again to a silo that reconnects
        self._teller = Teller(on_event, folder.progress.round)
        self._ended, self._dismissed = False, ""

    # -------------------------------------------------------------------- the connections

    def get(self, address: bytes) -> Blob | None:
        """BlobSource: the state of this digest. Called from worker threads."""
        return self._folder.states.find(address)

    async def on_connect(self, link: PeerLink, hello: f.Hello) -> None:
        """Serve one silo until its connection ends."""
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
        self._links[link.silo] = link
        self._seen.add(link.silo)
        self._teller.tell(link.name, "idle")
        try:
            if self._pending is not None:
                await link.send(self._pending)
            if not self._ended:
                await self._offer_round(link)
            await self._post.attach(link.silo, link, done)
            self._changed.set()
            while True:
                await self._take(link, await link.receive())
        except ConnectError:
            _log.info("silo %r disconnected", link.name)
        finally:
            if self._links.get(link.silo) is link:
                del self._links[link.silo]
                self._ready.discard(link.silo)
                self._post.detach(link.silo)
                self._changed.set()
                self._teller.tell(link.name, "away")

    async def _take(self, link: PeerLink, frame: f.Frame) -> None:
        now = self._folder.progress.round
        if isinstance(frame, f.LedgerEntries):
            receipt = await asyncio.to_thread(self._copies.extend, link.name, frame)
            if receipt is not None:
                with suppress(ConnectError):  # it has gone, but its claim is under way
                    await link.send(receipt)
        elif isinstance(frame, f.Ready):
            if frame.round == now:
                self._ready.add(link.silo)
                self._teller.tell(link.name, "tuned")
        elif isinstance(frame, f.Refused):
            if frame.round == now:
                _log.warning("silo %r refuses: %s", link.name, frame.reason)
                self._refused[link.silo] = frame.reason
                self._teller.tell(link.name, "refused")
        elif isinstance(frame, f.Claim):
            await asyncio.to_thread(self._claims.keep, link.name, frame.document)
        elif isinstance(frame, f.Phase):
            self._teller.tell(link.name, frame.name)
        elif isinstance(frame, f.Withdraw):
            _log.warning("silo %r left the attempt: %s", link.name, frame.reason)
            self._lose(link.silo)
        else:
            await self._take_message(link, frame)
        self._changed.set()

    async def _take_message(self, link: PeerLink, frame: f.Frame) -> None:
        if sender_of(frame) != link.silo:  # nobody speaks for another silo
            raise ProtocolError(f"silo {link.name!r} sent another silo's message")
        if isinstance(frame, m.Confirmation) and not frame.release_digest:
            self._words.put_nowait(frame)
        elif self._attempt is not None:
            self._attempt.put_nowait((link.silo, frame))  # type: ignore[arg-type]
        elif self._folder.progress.open:  # it is said once to each process of ours
            self._early[link.silo, type(frame)] = frame

    def _lose(self, silo: int) -> None:
        if self._attempt is not None:
            self._attempt.put_nowait((silo, m.Lost(silo)))
        self._changed.set()

    async def dismiss(self, reason: str) -> None:
        """Tell every silo, also one that comes later, that this run goes on no more."""
        self._dismissed = reason
        await self._broadcast(f.CannotServe(reason, PolicyRefusal.exit_status))

    async def _broadcast(self, message: f.Frame) -> None:
        for link in list(self._links.values()):
            try:
                await link.send(message)
            except FeditError as error:
                _log.info("silo %r can't be reached: %s", link.name, error)

    # ------------------------------------------------------------------------- the rounds

    async def run(self, may_go_on: Callable[[], bool] = lambda: True) -> GridState:
        """All rounds that are left, while one `may_go_on`; returns the last state.

        Raises QuorumLost when too few silos can or will go on.
        """
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
            await self._broadcast(f.CannotServe(str(error), error.exit_status))
            raise
        finally:
            await self._sums.saved()
        state = self._folder.state()
        await self._claims.gather(
            lambda: names if late else [link.name for link in self._links.values()],
            self._changed,
            self._charter.schedule.phase_deadline_seconds,
        )
        self._ended = True
        await self._broadcast(
            f.RunEnded(self._folder.progress.certified, state.digest())
        )
        self._teller.tell("", "ended")
        return state

    async def _round(self, now: int) -> None:
        self._teller.now = now
        self._post.start(now)
        before = self._folder.state()
        self._ready, self._refused, self._seen = set(), {}, set(self._links)
        started = time.monotonic()
        if self._folder.progress.open:
            left = await self._close_open_attempt(before)
            if isinstance(left, s.Ended) and not left.free:
                await self._skip(now, before, "an attempt was cut off")
            if isinstance(left, s.Certified) or not left.free:
                return
        self._teller.tell("", "tuning")
        for link in list(self._links.values()):
            await self._offer_round(link)
        for _ in range(MAX_ATTEMPTS):
            await self._gather(started)
            self._folder.metric(now, "tuning", time.monotonic() - started)
            result = await self._release(now, before)
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
        where = (progress.round, progress.attempt + 1, self._folder.state().digest())
        offer = checks.sign(self._key, m.Offer(self._digest, *where))
        certificate = self._folder.certificate(progress.certified)
        try:
            await link.send(f.RoundOffer(offer, certificate, self._approvals))
        except ConnectError:
            _log.info("silo %r left before its offer", link.name)

    async def _gather(self, started: float) -> None:
        """Until every expected silo is ready, or the deadline has passed with enough."""
        schedule, least = self._charter.schedule, self._params.minimum
        everyone = set(range(self._params.silos))
        while True:
            self._changed.clear()
            waited = time.monotonic() - started
            joined = self._seen | set(self._refused)
            complete = joined == everyone or waited >= schedule.phase_deadline_seconds
            missing = self._seen - set(self._refused) - self._ready
            if complete and not missing and len(self._ready) >= least:
                return
            if len(everyone) - len(self._refused) < least:
                reasons = "; ".join(sorted(set(self._refused.values())))
                raise QuorumLost(
                    f"{len(self._refused)} of {len(everyone)} silos refuse: {reasons}"
                )
            left = schedule.tune_deadline_seconds - waited
            if left <= 0:
                if len(self._ready) >= least:
                    return
                raise QuorumLost(
                    f"{len(self._ready)} silos were ready in time, not {least}"
                )
            nap = (
                left
                if complete
                else min(left, schedule.phase_deadline_seconds - waited)
            )
            try:
                async with asyncio.timeout(max(nap, 0.01)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    # ----------------------------------------------------------------------- the attempts

    async def _release(self, now: int, before: GridState) -> s.Certified | s.Ended:
        attempt = self._folder.progress.attempt + 1
        progress = replace(self._folder.progress, attempt=attempt, open=True)
        self._folder.enter(progress)
        session = self._session(now, attempt, before)
        began = time.monotonic()
        result = await self._drive(session, before, None)
        self._folder.metric(now, "release", time.monotonic() - began)
        return result

    async def _close_open_attempt(self, before: GridState) -> s.Certified | s.Ended:
        """An earlier process left an attempt open. Silos may have applied its sum, if one
        was published: go on from there. Else t void statements make it harmless."""
        progress = self._folder.progress
        session = self._session(progress.round, progress.attempt, before)
        here = (session, self._key, frozenset(range(self._params.silos)))
        out = self._folder.published(progress.round)
        resume: Resume
        if out is not None and out.ctx == session.ctx:
            resume, self._pending = s.Published(*here, out), out
        else:
            resume = s.Voiding(*here, "the aggregator was restarted")
            self._pending = checks.sign(self._key, m.VoidRequest(session.ctx))
        await self._broadcast(self._pending)
        while len(self._links) < self._params.threshold:
            self._changed.clear()
            await self._changed.wait()
        return await self._drive(session, before, resume)

    async def _drive(
        self, session: s.Session, before: GridState, resume: Resume | None
    ) -> s.Certified | s.Ended:
        seconds = self._charter.schedule.phase_deadline_seconds
        self._attempt = inbox = Inbox(
            seconds, self._params.payload_bytes, self._uploads
        )
        inbox.fill({} if resume is None else self._early)
        self._post.start(session.round)
        self._sums.forget()

        async def on_state(state: s.AggregatorState) -> None:
            inbox.enter(state)
            await self._note(session, before, state)

        try:
            result = await drive_aggregator(
                session, self._key, self._ready, inbox, self._post.send,
                math.inf, on_state, resume,
            )  # fmt: skip
        except ProtocolError as error:  # a dealer's or contributor's, proved or not
            lost = isinstance(error, QuorumLost) and resume is None
            if lost or isinstance(error, FaultyAggregator):  # which is this one
                raise
            _log.warning("round %d: %s", session.round, error)
            result = s.Ended(str(error), free=False)
        finally:
            self._attempt, self._pending = None, None
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

    async def _skip(self, now: int, before: GridState, reason: str) -> None:
        """Close the round with the state unchanged: t silos must say so."""
        request = m.SkipRequest(self._digest, now, before.digest())
        request = self._pending = checks.sign(self._key, request)
        self._teller.tell("", "skipped")
        _log.warning("round %d is skipped: %s", now, reason)
        await self._broadcast(request)
        try:
            certificate = await skip_certificate(request, self._words, self._charter)
        finally:
            self._pending = None
        await asyncio.to_thread(self._folder.certify, now, certificate)
        await self._sums.save(now, before)
        await self._broadcast(certificate)

    def _session(self, now: int, attempt: int, before: GridState) -> s.Session:
        where = (self._digest, now, attempt, before.digest())
        return s.Session(self._params, self._roster, *where)
