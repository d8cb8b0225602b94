"""The sum of an attempt at the aggregator, and the state that it gives: as every silo
computes it, which is how the aggregator knows whether the silos agree with it.
"""

from __future__ import annotations

import asyncio
import logging

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.errors import FaultyAggregator
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState, apply_update
from fedit_secure.secagg import messages as m

_log = logging.getLogger(__name__)


class Sums:
    """At most one published sum, and the state after it, while silos apply it too; and
    the adapters that certified states become."""

    def __init__(
        self, folder: RunFolder, charter: Charter, base_model: str | None
    ) -> None:
        self._folder, self._base_model = folder, base_model
        self._charter, self._params = charter, charter.secagg_params()
        self._saving: asyncio.Task[None] | None = None
        self._published: m.PublishedSum | None = None
        self._after: asyncio.Task[GridState] | None = None

    def forget(self) -> None:
        """An attempt begins, and has no sum."""
        self._published = self._after = None

    async def publish(self, round: int, out: m.PublishedSum, before: GridState) -> None:
        """Put a sum on the disk, durably: from then on silos may be told. The state after
        it is computed while they compute it. Nothing if it is known."""
        if self._published is not None:
            return
        await asyncio.to_thread(self._folder.record_sum, round, out)
        self._published = out
        self._after = asyncio.create_task(
            asyncio.to_thread(self._apply, round, out, before)
        )
        self._after.add_done_callback(_tell)

    async def certified(self, proof: m.RoundCertificate) -> GridState:
        """The state that t silos confirmed: durable, and ours too.

        Raises:
            FaultyAggregator: they confirmed another sum, or another state.
        """
        digest, release = proof.confirmations[0].content()
        known = self._published
        if known is None or self._after is None or known.release_digest != release:
            raise FaultyAggregator("a quorum confirmed a sum that was never published")
        after = await self._after
        if after.digest() != digest:
            # t silos agree with each other and not with us: their state counts, ours is
            # broken, and going on would only spread it.
            raise FaultyAggregator("a quorum of silos applied the sum to another state")
        await asyncio.to_thread(self._folder.evaluated, proof.round)
        return after

    async def save(self, round: int, state: GridState) -> None:
        """Begin to write the adapter after a certified round, once the one before is
        written: no silo waits for it."""
        await self.saved()
        write = asyncio.to_thread(
            self._folder.save_adapter, round, state, self._base_model
        )
        self._saving = asyncio.create_task(write)

    async def saved(self) -> None:
        """Wait for the adapter that is being written.

        Raises:
            StorageError: the disk refuses it.
        """
        if self._saving is not None:
            saving, self._saving = self._saving, None
            await saving

    def _apply(self, round: int, out: m.PublishedSum, before: GridState) -> GridState:
        what = (out.total, self._params, out.contributors)
        rule, released = self._charter.server_rule, self._charter.released(round)
        after = apply_update(before, *what, rule, released)
        self._folder.states.put(after)
        return after


def _tell(task: asyncio.Task[GridState]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the published sum can't be applied: %s", error)
