"""What each silo says that its charges cost, kept for the auditor: a file per silo.

The aggregator can't judge an epsilon, and needn't. It keeps what the silo signed, if that
is about this charter and about the ledger that is here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from fedit_secure.aggregator.ledger_copies import LedgerCopies
from fedit_secure.errors import ConfigError, PolicyRefusal, ProtocolError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, verify_claim
from fedit_secure.federation.durable import write_durably

_log = logging.getLogger(__name__)


class Claims:
    """`<silo>.claim` in a folder: the last one of each silo."""

    def __init__(self, folder: Path, charter: Charter, copies: LedgerCopies) -> None:
        self._folder, self._charter, self._copies = folder, charter, copies
        folder.mkdir(parents=True, exist_ok=True)
        self._held = {path.stem for path in folder.glob("*.claim")}

    def keep(self, silo: str, document: bytes) -> None:
        """Keep a silo's claim, durably, in place of an earlier one.

        One about entries that aren't here yet is passed over: the silo sends it again
        behind its ledger. Raises ProtocolError if it isn't this silo's, is of another
        charter, or is about another ledger; StorageError if the disk refuses.
        """
        try:
            claim = Claim.from_bytes(document, "it")
            verify_claim(self._charter, claim)
        except (ConfigError, PolicyRefusal) as error:
            what = f"silo {silo!r} sent a claim that isn't one: {error}"
            raise ProtocolError(what) from error
        if claim.silo != silo:
            raise ProtocolError(f"silo {silo!r} sent the claim of silo {claim.silo!r}")
        head = (claim.sequence, bytes.fromhex(claim.hash))
        here = self._copies.lies_on(silo, *head)
        if here is None:
            _log.warning("the claim of silo %r came before its ledger", silo)
            return
        if not here:
            raise ProtocolError(f"silo {silo!r} claims a cost for another ledger")
        write_durably(self._folder / f"{silo}.claim", document)
        self._held.add(silo)

    async def gather(
        self, due: Callable[[], Iterable[str]], changed: asyncio.Event, seconds: float
    ) -> None:
        """Until every silo of which one is due has sent it, `seconds` at most: the run is
        over, and fails for no claim. `changed` is set whenever one came or a silo left.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while set(due()) - self._held:
                    changed.clear()
                    await changed.wait()
        for silo in sorted(set(due()) - self._held):
            _log.warning("silo %r hasn't said in time what its charges cost", silo)
