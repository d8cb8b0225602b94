"""A daemon of either role that says old things again, over its own authenticated link.

    REPLAY_PLAN=FILE REPLAY_SAID=FILE [REPLAY_TO=SILO] \
        python replaying_daemon.py silo|aggregator serve CONFIG

The plan is JSON: types of messages, one after the other, each in a round of its own. Before
the daemon sends one of that type, having sent one in an earlier round, it sends what is
stale of it: that earlier one ("round"), and, signed anew with its own key as it would have
been then, what it would have said in another attempt of this round ("attempt") and in the
same attempt of another run ("run"). Whatever was sent, and refused if it was refused at
once, is a line of the other file. An aggregator says it to one silo. Everything else is the
daemon's own; a silo's tuning is a draw, as in `marked_silo.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from faults import marked_silo

from fedit_secure.aggregator import serve as hub
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.cli.main import main
from fedit_secure.errors import FeditError
from fedit_secure.federation.charter import Charter
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo import serve as silo
from fedit_secure.wire import frames as f

ANOTHER_RUN = hashlib.sha256(b"the charter of another run").digest()
ANOTHER_ATTEMPT = 7


class Stale:
    """What one daemon has sent, and what it makes of that."""

    def __init__(self, charter: Charter, key: SigningKey) -> None:
        self._charter, self._key = charter, key
        self._due = json.loads(Path(os.environ["REPLAY_PLAN"]).read_text())
        self._sent: dict[str, tuple[int, f.Frame]] = {}
        self._round = self._last = 0

    def before(self, frame: f.Frame) -> Iterator[tuple[str, f.Frame]]:
        """Each stale message, with what it is stale by, that goes before this one."""
        kind = type(frame).__name__
        if isinstance(frame, f.Phase):
            self._round = frame.round
        elif isinstance(frame, f.RoundOffer):
            self._round = frame.offer.round
        when, earlier = self._sent.get(kind, (self._round, frame))
        if [kind] == self._due[:1] and when < self._round and self._last < self._round:
            del self._due[0]
            self._last = self._round
            yield "round", earlier
            yield from self._elsewhere(frame)
        self._sent[kind] = self._round, frame

    def said(self, kind: str, stale: str, refusal: str) -> None:
        """Write it down."""
        with Path(os.environ["REPLAY_SAID"]).open("a") as file:
            file.write(json.dumps([self._round, kind, stale, refusal]) + "\n")

    def _elsewhere(self, frame: f.Frame) -> Iterator[tuple[str, f.Frame]]:
        if isinstance(frame, f.RoundOffer):
            yield "run", replace(frame, offer=self._of_another_run(frame.offer))
        elif isinstance(frame, m.Confirmation | m.Offer):
            yield "run", self._of_another_run(frame)
        elif isinstance(frame, m.ShareBundle):
            for stale, ctx in self._contexts():
                yield stale, replace(frame, statement=self._at(frame.statement, ctx))
        elif isinstance(frame, m.MaskedUpload):
            for stale, ctx in self._contexts():
                yield stale, replace(frame, header=self._at(frame.header, ctx))
        elif isinstance(frame, m.AgreementSet):  # nobody signs it
            for stale, ctx in self._contexts():
                yield stale, replace(frame, ctx=ctx)
        elif isinstance(frame, m.PublishedSum):
            return  # the integers of the last two sums are kept: that of before, and this
        elif isinstance(frame, m.InAttempt | m.BySilo):
            for stale, ctx in self._contexts():
                yield stale, self._at(frame, ctx)

    def _of_another_run(self, message: Any) -> Any:
        return checks.sign(self._key, replace(message, charter=ANOTHER_RUN))

    def _at(self, message: Any, ctx: bytes) -> Any:
        return checks.sign(self._key, replace(message, ctx=ctx))

    def _contexts(self) -> Iterator[tuple[str, bytes]]:
        charter = self._charter
        parties = (charter.secagg_params(), charter.secagg_roster())
        initial = bytes.fromhex(charter.adapter.initial_digest)
        for stale, digest, attempt in (
            ("attempt", charter.digest(), ANOTHER_ATTEMPT),
            ("run", ANOTHER_RUN, 1),
        ):
            yield stale, s.Session(*parties, digest, self._round, attempt, initial).ctx


class Replaying:
    """A link that says what is stale first; the rest of it is `inner`'s."""

    def __init__(self, inner: Any, stale: Stale) -> None:
        self._inner, self._stale = inner, stale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send(self, frame: f.Frame) -> None:
        for stale, old in self._stale.before(frame):
            refusal = ""
            try:
                await self._inner.send(old)
            except FeditError as error:
                refusal = str(error)
            self._stale.said(type(old).__name__, stale, refusal)
        await self._inner.send(frame)


def a_silo_replays() -> None:
    """In this process, over every link that it dials."""
    known: list[Stale] = []

    class Daemon(marked_silo.Daemon):
        def __init__(
            self, charter: Charter, name: str, key: SigningKey, *rest: Any, **more: Any
        ) -> None:
            super().__init__(charter, name, key, *rest, **more)
            known.append(Stale(charter, key))

    connect = silo.connect

    async def replaying(*given: Any, **more: Any) -> Any:
        return Replaying(await connect(*given, **more), known[0])

    marked_silo.mark()
    silo.SiloDaemon = Daemon  # type: ignore[misc]
    silo.connect = replaying  # type: ignore[assignment]


def an_aggregator_replays() -> None:
    """In this process, to one silo."""

    class Service(Aggregator):
        def __init__(
            self,
            charter: Charter,
            approvals: Any,
            key: SigningKey,
            *rest: Any,
            **more: Any,
        ) -> None:
            super().__init__(charter, approvals, key, *rest, **more)
            self._stale = Stale(charter, key)

        async def on_connect(self, link: Any, hello: f.Hello) -> None:
            if link.name == os.environ["REPLAY_TO"]:
                link = Replaying(link, self._stale)
            await super().on_connect(link, hello)

    hub.Aggregator = Service  # type: ignore[misc]


if __name__ == "__main__":
    if sys.argv[1] == "silo":
        a_silo_replays()
    else:
        an_aggregator_replays()
    sys.exit(main(sys.argv[1:]))
