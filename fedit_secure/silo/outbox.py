"""A silo's way to the aggregator in one attempt, which outlives the link that it uses.

Steps of the machine never fail for a broken link: what they have to say is kept here and
said over the next one. Only the very same bytes are ever said again, and only the last
answer, for what the aggregator asked next shows that it had the one before; it takes
nobody's answer twice. Reveals, voids and confirmations aren't kept here: they are on
disk, with their fuses.
"""

from __future__ import annotations

import asyncio
import logging

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.secagg import messages as m
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.link import SiloLink

_log = logging.getLogger(__name__)
_SAID_AGAIN = (m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement)


class Outbox:
    """See the module. Its `send` is the driver's; uploads go on beside other messages.

    A masked upload is kept until it is acknowledged, or until the attempt goes on
    without it. It is never computed a second time: every link takes the same bytes.
    """

    def __init__(self) -> None:
        self._link: SiloLink | None = None
        self._last: m.Sent | None = None
        self.uploading: asyncio.Task[None] | None = None

    async def connected(self, link: SiloLink) -> None:
        """Say over this link what may not have arrived over the last one."""
        self._link = link
        if self._last is not None:
            await self.say(self._last)

    def disconnected(self) -> None:
        """The link is gone; what it was to carry stays."""
        self._link = None
        self._stop()

    def forget(self) -> None:
        """The attempt is over, or has the upload: nothing is said again."""
        self._stop()
        self._last = None

    async def send(self, message: m.Sent) -> None:
        """The answer to the last message: it takes the place of the one before."""
        self.forget()
        if isinstance(message, _SAID_AGAIN):
            self._last = message
        await self.say(message)

    async def say(self, message: m.Sent) -> None:
        """Send it if there is a link; of an upload only the beginning is awaited."""
        if self._link is None:
            return
        if isinstance(message, m.MaskedUpload):
            self.uploading = asyncio.create_task(self._link.send(message))
            return
        try:
            await self._link.send(message)
        except (ConnectError, DeadlineExceeded) as error:
            _log.info("a %s waits for a new link: %s", type(message).__name__, error)

    def uploaded(self) -> None:
        """The upload that was under way has ended, well or not.

        Raises:
            ConnectError, DeadlineExceeded: another link should go on with it.
            MalformedMessage: the aggregator refuses it.
        """
        task, self.uploading = self.uploading, None
        assert task is not None
        try:
            task.result()
        except (Unreachable, DeadlineExceeded):
            raise
        except ConnectError as error:
            # The link has ended, which whoever receives is told too; or the aggregator
            # takes no upload in this attempt any more, and what it asks next will say so.
            _log.warning("the upload wasn't taken: %s", error)

    def _stop(self) -> None:
        if self.uploading is not None:
            self.uploading.cancel()
            self.uploading.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )
            self.uploading = None
