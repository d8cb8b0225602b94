"""A change of a ledger's cap, under somebody's signature."""

from __future__ import annotations

import struct

from audit.forge import Run
from audit.parties import key_of

from fedit_secure.privacy import events as e
from fedit_secure.secagg.transcript import digest, u64


def cap_changed(
    run: Run, silo: str, old: float | None, new: float, *, by: str = "", at: int = 0
) -> e.CapChanged:
    """The entry that this silo's ledger may take next, or could have taken before.

    `by`: who signs it in the operator's place. `at`: the entry that it is signed for.
    """
    chain, reason = run.chains[silo], "the board, 2 May"
    number = at or len(chain.entries) + 1
    covered = digest(
        "fedit/cap/v1",
        chain.population.encode(),
        u64(number),
        chain.hashes[number - 1],
        b"" if old is None else struct.pack("<d", old),
        struct.pack("<d", new),
        reason.encode(),
    )
    signature = key_of(by or silo).sign(covered).hex()
    return e.CapChanged(cap_epsilon=new, reason=reason, signature=signature)
