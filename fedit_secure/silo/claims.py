"""What a silo claims of its own cost when a run has ended: signed, kept, and sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from fedit_secure.errors import (
    ConfigError,
    ConnectError,
    DeadlineExceeded,
    StorageError,
)
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, sign_claim
from fedit_secure.federation.durable import write_durably
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.privacy.mechanisms import PrivacyAccountingError
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.books import Books
from fedit_secure.wire import frames as f

_log = logging.getLogger(__name__)


def claim_path(state: Path, charter: Charter) -> Path:
    """Where a silo keeps its claim under a charter, in its state folder."""
    return state / "claims" / f"{charter.digest().hex()}.claim"


def keep_claim(
    state: Path, charter: Charter, name: str, ledger: Ledger, key: SigningKey
) -> Claim:
    """The claim about all of this ledger: the one that is kept, or a new one, kept.

    Takes seconds where it is new. Raises StorageError if it can't be written, and
    PrivacyAccountingError as `sign_claim`.
    """
    path = claim_path(state, charter)
    with suppress(ConfigError):  # a damaged one is made again: it holds nothing new
        if path.exists():
            kept = Claim.load(path)
            if (kept.sequence, kept.hash) == (ledger.sequence, ledger.hash.hex()):
                return kept
    claim = sign_claim(charter, name, ledger, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{path.parent} can't be made: {error.strerror}"
        raise StorageError(what) from error
    write_durably(path, claim.to_bytes())
    return claim


class Claiming:
    """The claim of one daemon, computed beside all else that it does.

    `send` raises ConnectError while there is no connection.
    """

    def __init__(
        self,
        charter: Charter,
        name: str,
        key: SigningKey,
        books: Books,
        send: Callable[[f.Claim], Awaitable[None]],
    ) -> None:
        self._charter, self._name, self._key = charter, name, key
        self._books, self._send = books, send
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Make the claim and send it, if the last round is certified: call it whenever
        the ledger has just been sent. One that is under way goes on.
        """
        idle = self._task is None or self._task.done()
        if idle and self._books.certified == self._charter.rounds:
            self._task = asyncio.create_task(self._claim())

    async def finish(self) -> None:
        """Wait for the claim to be kept, and sent where that can be."""
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        """The process ends: what isn't done is done by the next one."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _claim(self) -> None:
        head, _, entries = self._books.signed_ledger()
        ledger = await asyncio.to_thread(Ledger.from_entries, head.population, entries)
        where = (self._books.folder, self._charter, self._name)
        try:
            claim = await asyncio.to_thread(keep_claim, *where, ledger, self._key)
        except PrivacyAccountingError as error:
            # The run has ended well all the same; an auditor computes it from the ledger.
            _log.warning("what the charges cost can't be claimed: %s", error)
            return
        with suppress(ConnectError, DeadlineExceeded):  # it is sent at every connection
            await self._send(f.Claim(claim.to_bytes()))
