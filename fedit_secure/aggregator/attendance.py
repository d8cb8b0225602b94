"""Who is there: which silos are connected, have tuned, or refuse, in the round under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from fedit_secure.errors import FeditError, QuorumLost
from fedit_secure.federation.charter import Charter
from fedit_secure.wire import frames as f
from fedit_secure.wire.link import PeerLink

_log = logging.getLogger(__name__)


class Attendance:
    """See the module. Silos go by roster index.

    `links` are the connections, the newest of each silo. `cohort` are the silos that take
    part in the round, and the only ones that anybody waits for. Of them, `ready` hold an
    update of this round, and `refused` says why others won't have one. `changed` is set
    whenever any of it has changed. `pending` is said again to one that connects.
    """

    def __init__(self, charter: Charter) -> None:
        self._schedule, self._params = charter.schedule, charter.secagg_params()
        self.links: dict[int, PeerLink] = {}
        self.cohort: frozenset[int] = frozenset()
        self.ready: set[int] = set()
        self.refused: dict[int, str] = {}
        self.changed = asyncio.Event()
        self.pending: f.Frame | None = None
        self._seen: set[int] = set()  # connected at some time in this round

    def begin(self, cohort: Iterable[int]) -> None:
        """A round begins, which takes these silos: none of them has tuned for it yet."""
        self.cohort = frozenset(cohort)
        self.ready, self.refused, self._seen = set(), {}, set(self.links)

    def come(self, link: PeerLink) -> None:
        """A silo is connected by this link, and by no older one."""
        self.links[link.silo] = link
        self._seen.add(link.silo)

    def newest(self, link: PeerLink) -> bool:
        """Whether it is the one by which its silo is connected."""
        return self.links.get(link.silo) is link

    def leave(self, link: PeerLink) -> bool:
        """The link has ended; whether its silo is away with it."""
        if not self.newest(link):
            return False
        del self.links[link.silo]
        self.ready.discard(link.silo)
        self.changed.set()
        return True

    def connected(self) -> tuple[PeerLink, ...]:
        """The links there are now, whatever happens to them meanwhile."""
        return tuple(self.links.values())

    async def broadcast(self, message: f.Frame) -> None:
        """Tell every silo that is connected."""
        await self._tell(message, self.connected())

    async def tell_cohort(self, message: f.Frame) -> None:
        """Tell those that take part in the round, if they are connected."""
        links = (link for link in self.connected() if link.silo in self.cohort)
        await self._tell(message, links)

    async def _tell(self, message: f.Frame, links: Iterable[PeerLink]) -> None:
        for link in links:
            try:
                await link.send(message)
            except FeditError as error:
                _log.info("silo %r can't be reached: %s", link.name, error)

    async def enough(self) -> None:
        """Until as many silos of the cohort are connected as make a quorum."""
        while len(self.cohort & self.links.keys()) < self._params.threshold:
            self.changed.clear()
            await self.changed.wait()

    async def gather(self, started: float) -> None:
        """Until every expected silo is ready, or the deadline has passed with enough.

        `started`: when the round did, in monotonic seconds. Raises QuorumLost when too few
        can or will tune.
        """
        schedule, least = self._schedule, self._params.minimum
        everyone = self.cohort
        while True:
            self.changed.clear()
            waited = time.monotonic() - started
            seen = everyone & self._seen
            joined = seen | set(self.refused)
            complete = joined == everyone or waited >= schedule.phase_deadline_seconds
            missing = seen - set(self.refused) - self.ready
            if complete and not missing and len(self.ready) >= least:
                return
            if len(everyone) - len(self.refused) < least:
                reasons = "; ".join(sorted(set(self.refused.values())))
                raise QuorumLost(
                    f"{len(self.refused)} of {len(everyone)} silos refuse: {reasons}"
                )
            left = schedule.tune_deadline_seconds - waited
            if left <= 0:
                if len(self.ready) >= least:
                    return
                raise QuorumLost(
                    f"{len(self.ready)} silos were ready in time, not {least}"
                )
            nap = (
                left
                if complete
                else min(left, schedule.phase_deadline_seconds - waited)
            )
            try:
                async with asyncio.timeout(max(nap, 0.01)):
                    await self.changed.wait()
            except TimeoutError:
                continue
