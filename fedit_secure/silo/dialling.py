"""A silo's connections, each under a leaf certificate of its own.

TLS looks at a certificate when a connection begins, and the aggregator at every call over
it. So a connection that outlives its leaf would fail in the middle of an upload: it is
ended before that, between two rounds, and the daemon dials anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from fedit_secure.federation.certificates import leaf_end
from fedit_secure.federation.identity import Identity, issue_leaf
from fedit_secure.federation.lifetimes import Clock, renewal_due, utc_now
from fedit_secure.wire.link import SiloLink

_log = logging.getLogger(__name__)
LOOK_SECONDS = 60.0
_URGENT = timedelta(days=1)  # before its end: then in the middle of a round, too

Leaf = tuple[bytes, bytes]


class Dialling:
    """The daemon's `dial`. `connect(leaf)` opens a connection under a new leaf, and
    `between_rounds()` says whether nothing is under way.

    `under_way`: whether it is dialling now. `chain`: the leaf shown last, and its issuer.
    """

    def __init__(
        self,
        identity: Identity,
        connect: Callable[[Leaf], Awaitable[SiloLink]],
        between_rounds: Callable[[], bool],
        clock: Clock = utc_now,
    ) -> None:
        self._identity, self._connect = identity, connect
        self._between_rounds, self._clock = between_rounds, clock
        self._link: SiloLink | None = None
        self.chain: bytes | None = None
        self.under_way = False

    async def __call__(self) -> SiloLink:
        """A connection under a leaf that was issued for it."""
        leaf = issue_leaf(self._identity, (), self._clock())
        self._link, self.under_way = None, True
        try:
            link = await self._connect(leaf)
        finally:
            self.under_way = False
        self._link, self.chain = link, leaf[1]
        return link

    async def keep(self) -> None:
        """End each connection in time before its leaf does, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            link = self._link
            if link is None or self.chain is None or not self._due(self.chain):
                continue
            self._link = None
            _log.info("dialling anew: the certificate ends %s", leaf_end(self.chain))
            await link.close()

    def _due(self, chain: bytes) -> bool:
        now = self._clock()
        if now >= leaf_end(chain) - _URGENT:
            return True
        return now >= renewal_due(chain) and self._between_rounds()
