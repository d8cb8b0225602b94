"""THE loop of both roles: receive, step, fuse, send.

The protocol core decides, this module does: it performs the effects of a step in their
order, and stops at the first that fails, so a fuse that is refused keeps everything that
follows it from being sent. Steps and disk work run in worker threads; the event loop
stays free for the other silos.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from fedit_secure.errors import ConnectError, DeadlineExceeded, ProtocolError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.protocol import aggregator_step, open_attempt, silo_step

_log = logging.getLogger(__name__)

Apply = Callable[[m.PublishedSum], Awaitable[bytes]]
SendTo = Callable[[int, m.Sent], Awaitable[None]]
Inbox = asyncio.Queue[tuple[int, m.Message]]
Resume = s.Published | s.Voiding  # where an attempt may be taken up again


class FuseBox(Protocol):
    """Where fuses are durable; `silo/books.py` has the one on disk."""

    def burn(self, fuse: m.Fuse) -> None:
        """Commit the fuse; FuseBlown if its step was done or ruled out before."""


class SendFrame(Protocol):
    """A silo's way to the aggregator."""

    async def send(self, frame: m.Sent) -> None:
        """Send one message; ConnectError when the link is down."""


async def drive_silo(
    state: s.SiloState,
    message: m.Message,
    link: SendFrame,
    fuses: FuseBox,
    apply: Apply,
) -> s.SiloState:
    """One message through a silo's machine, and every effect of it, in order.

    `apply` turns a verified sum into the next global state and returns its digest.
    Raises what the step raises, FuseBlown, StorageError and ConnectError.
    """
    pending: deque[m.Message] = deque((message,))
    while pending:
        taken = pending.popleft()
        state, effects = await asyncio.to_thread(silo_step, state, taken, os.urandom)
        for effect in effects:
            if isinstance(effect, m.Fuse):
                await asyncio.to_thread(fuses.burn, effect)
            elif isinstance(effect, m.Send):
                await link.send(effect.message)
            else:
                pending.append(m.StateApplied(await apply(effect.published)))
    return state


async def drive_aggregator(
    session: s.Session,
    key: SigningKey,
    invited: Iterable[int],
    inbox: Inbox,
    send: SendTo,
    phase_seconds: float,
    on_state: Callable[[s.AggregatorState], Awaitable[None]],
    resume: Resume | None = None,
) -> s.Certified | s.Ended:
    """One attempt from the invitations to its end.

    A phase that makes no progress for `phase_seconds` is sealed with what has arrived. A
    silo whose message is refused is blamed in the log and lost to this attempt. `resume`
    goes on with an attempt that an earlier process left open. Raises QuorumLost.
    """
    state: s.AggregatorState
    if resume is None:
        state, effects = open_attempt(session, key, invited)
    else:
        state, effects = resume, ()
    while True:
        await on_state(state)
        for silo in await _perform(effects, send):
            inbox.put_nowait((silo, m.Lost(silo)))
        if isinstance(state, s.Certified | s.Ended):
            return state
        try:
            async with asyncio.timeout(phase_seconds):
                silo, message = await inbox.get()
        except TimeoutError:
            silo, message = -1, m.Deadline()
        try:
            state, effects = await asyncio.to_thread(aggregator_step, state, message)
        except ProtocolError as error:
            suspect = getattr(error, "suspect", "")
            if silo < 0 or suspect not in ("", session.roster.name(silo)):
                raise
            _log.warning("round %d: %s", session.round, error)
            state, effects = await asyncio.to_thread(
                aggregator_step, state, m.Lost(silo)
            )


async def _perform(effects: tuple[m.Effect, ...], send: SendTo) -> set[int]:
    """Perform a step's effects; returns the silos that can't be reached any more."""
    mail: dict[int, list[m.Sent]] = {}
    for effect in effects:
        if isinstance(effect, m.Send) and effect.to is not None:
            mail.setdefault(effect.to, []).append(effect.message)

    async def post(silo: int, messages: list[m.Sent]) -> int | None:
        try:
            for message in messages:
                await send(silo, message)
        except (ConnectError, DeadlineExceeded):
            return silo
        return None

    # Side by side, so that one slow silo holds nobody up.
    gone = await asyncio.gather(*(post(silo, box) for silo, box in mail.items()))
    return {silo for silo in gone if silo is not None}
