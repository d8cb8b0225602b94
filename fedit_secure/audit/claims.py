"""What a silo signed of its cost, against what its charges have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from fedit_secure.audit.bundle import Bundle
from fedit_secure.audit.costs import TOLERANCE, cost_at
from fedit_secure.audit.facts import Cost
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.histories import History
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, Stated
from fedit_secure.secagg.keys import BadSignature, verify

_SMALL = 64 << 10


def read_claim(
    bundle: Bundle, charter: Charter, silo: str
) -> tuple[Claim | None, list[Fault]]:
    """A silo's claim, if it is there and signed."""
    where = f"claims/{silo}.claim"
    data = bundle.read(where, _SMALL)
    if data is None:
        return None, []
    try:
        claim = Claim.from_bytes(data, where)
        key = bytes.fromhex(charter.row(silo).identity)
        verify(key, claim.signed_digest(), bytes.fromhex(claim.signature))
    except ConfigError as wrong:
        return None, [Fault("claim-unsigned", where, str(wrong))]
    except BadSignature:
        return None, [Fault("claim-unsigned", where, f"{silo} didn't sign it")]
    return claim, []


def check_claim(
    own: str, history: History, claim: Claim, run: Cost | None
) -> Iterator[Fault]:
    """A claim says of exactly the charges below its head what they cost.

    `own`: the charter's digest in hex.
    """
    opened, where = history.opened, f"claims/{history.silo}.claim"
    assert opened is not None
    about = (claim.silo, claim.population, claim.charter, claim.unit)
    due = (history.silo, opened.population, own, opened.unit)
    if about != due:
        what = "it is of another silo, population, charter or unit"
        yield Fault("claim-of-another-head", where, what)
        return
    if claim.sequence > history.entries:
        # Its silo signed more than is here, and wasn't asked for less.
        what = f"it has {history.entries} entries, and its silo claims {claim.sequence}"
        yield Fault("ledger-cut", f"ledger of {history.silo}", what)
        return
    if history.hashes[claim.sequence].hex() != claim.hash:
        what = f"its head of {claim.sequence} entries isn't on the ledger"
        yield Fault("claim-of-another-head", where, what)
        return
    charged = {c.entry for c in history.of(own)}
    left = sorted(entry for entry in charged if entry > claim.sequence)
    if left:
        what = f"it leaves out the charge at entry {left[0]}"
        yield Fault("claim-of-another-head", where, what)
        return
    yield from _compare(
        where, "all charges", claim.lifetime, cost_at(history, claim.sequence)
    )
    if (run is None) != (claim.run is None):
        yield Fault("epsilon-differs", where, "it is of a plan with, or without, DP")
    elif run is not None and claim.run is not None:
        yield from _compare(where, "the run", claim.run, run)


def _compare(where: str, of: str, said: Stated, found: Cost) -> Iterator[Fault]:
    pairs: Mapping[str, tuple[float | None, float | None]] = {
        "delta": (said.delta, found.delta),
        "PLD": (said.pld, found.pld),
        "PRV": (said.prv, found.prv),
        "RDP": (said.rdp, found.rdp),
        "the published figure": (said.published, found.published),
    }
    for name, (stated, computed) in pairs.items():
        if not _same(stated, computed):
            what = f"of {of} it states {name} {stated}, and they have {computed}"
            yield Fault("epsilon-differs", where, what)
            return


def _same(stated: float | None, computed: float | None) -> bool:
    finite = None if computed is None or math.isinf(computed) else computed
    if stated is None or finite is None:
        return stated is finite
    return abs(stated - finite) <= TOLERANCE * max(1.0, abs(finite))
