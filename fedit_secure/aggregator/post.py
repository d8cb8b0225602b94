"""What the aggregator has said in the attempt under way, for a silo whose link broke.

A frame that was on its way when a link broke may have arrived or not. So a silo that
comes back is told everything of the attempt again, in order, and passes over what it
has answered. The letters are references to messages that the attempt holds anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from fedit_secure.errors import ConnectError, DeadlineExceeded
from fedit_secure.secagg import messages as m
from fedit_secure.wire.link import PeerLink

_log = logging.getLogger(__name__)
RECONNECT_SECONDS: Final = 2.0  # that a silo whose link broke keeps its place


class Post:
    """One box of letters per silo, and the link over which each box is emptied.

    `lose(silo)` is called when a silo hasn't come back in time: after 2 seconds, or
    `patience` seconds if that is less.
    """

    def __init__(self, lose: Callable[[int], None], patience: float) -> None:
        self._boxes: dict[int, _Box] = {}
        self._lose, self._seconds = lose, min(RECONNECT_SECONDS, patience)
        self._missed: dict[int, asyncio.TimerHandle] = {}
        self._round = 0

    def start(self, round: int) -> None:
        """A new attempt of this round: what was said before is past."""
        self._round = round
        for silo, box in self._boxes.items():
            link, box.link = box.link, None
            self._boxes[silo] = _Box(link)

    async def send(self, silo: int, message: m.Sent) -> None:
        """Say it now, or once the silo is back; raises nothing when it is away."""
        box = self._box(silo)
        box.letters.append(message)
        await box.flush()

    async def attach(self, silo: int, link: PeerLink, certified: int) -> None:
        """The silo is back: tell it all of the attempt over this link, unless it has been
        told that the round is `certified`, which leaves nothing to say."""
        if (missed := self._missed.pop(silo, None)) is not None:
            missed.cancel()
        box = self._box(silo)
        box.link = link
        box.told = 0 if certified < self._round else len(box.letters)
        await box.flush()

    def detach(self, silo: int) -> None:
        """The silo's newest link has ended; it keeps its place for a while."""
        self._box(silo).link = None
        later = asyncio.get_running_loop().call_later
        self._missed[silo] = later(self._seconds, self._lose, silo)

    def _box(self, silo: int) -> _Box:
        return self._boxes.setdefault(silo, _Box(None))


class _Box:
    """`told` of the `letters` have been handed to the link."""

    def __init__(self, link: PeerLink | None) -> None:
        self.letters: list[m.Sent] = []
        self.link = link
        self.told = 0
        self._turn = asyncio.Lock()  # letters leave in their order

    async def flush(self) -> None:
        async with self._turn:
            while self.link is not None and self.told < len(self.letters):
                link, letter = self.link, self.letters[self.told]
                try:
                    await link.send(letter)
                except (ConnectError, DeadlineExceeded) as error:
                    _log.info("silo %r is told later: %s", link.name, error)
                    if self.link is link:
                        self.link = None
                else:
                    if self.link is link:  # else the new link is told from the start
                        self.told += 1
