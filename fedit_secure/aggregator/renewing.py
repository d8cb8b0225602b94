"""The aggregator's leaf certificate, renewed while it serves.

New connections are shown the new leaf; those that are there go on, and no attempt notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from fedit_secure.errors import StorageError
from fedit_secure.federation.certificates import leaf_end
from fedit_secure.federation.identity import Identity, issue_leaf
from fedit_secure.federation.lifetimes import Clock, renewal_due, utc_now
from fedit_secure.wire.tls import Tls

_log = logging.getLogger(__name__)
LOOK_SECONDS = 600.0  # a clock may be set, a machine may sleep: look again


class _Renewable(Protocol):
    def renew(self, tls: Tls) -> None: ...


class Renewing:
    """See the module. `roster` is (silo name, issuer certificate PEM) in charter order;
    `hosts` are named by the leaf beside the party's own name.
    """

    def __init__(
        self,
        identity: Identity,
        hosts: Sequence[str],
        roster: Sequence[tuple[str, str]],
        clock: Clock = utc_now,
    ) -> None:
        self._identity, self._hosts, self._roster = identity, hosts, roster
        self._clock = clock
        self.tls = self._issued()

    async def keep(self, server: _Renewable) -> None:
        """Renew the leaf of a server whenever two thirds of its life are over, for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._clock() >= renewal_due(self.tls.chain):
                self._renew(server)

    def _renew(self, server: _Renewable) -> None:
        before = leaf_end(self.tls.chain)
        try:
            issued = self._issued()
        except (StorageError, ValueError) as error:
            _log.warning(
                "the certificate, which ends %s, isn't renewed: %s", before, error
            )
            return
        if leaf_end(issued.chain) <= before:
            # The issuer itself ends then: only a new identity helps.
            _log.warning(
                "the certificate can't outlive the card, which ends %s", before
            )
            return
        self.tls = issued
        server.renew(issued)
        _log.info("the certificate is renewed; it ends %s", leaf_end(issued.chain))

    def _issued(self) -> Tls:
        leaf = issue_leaf(self._identity, self._hosts, self._clock())
        return Tls.of_aggregator(leaf, self._roster)
