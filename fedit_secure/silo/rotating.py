"""A silo's ledgers go over to its next key, under the signature of the one before.

Whoever reads a ledger takes operators' decisions and heads under the key that it leads to.
So every ledger in the journal goes over at once, and only while no daemon runs on it.
"""

from __future__ import annotations

from fedit_secure.errors import ConfigError
from fedit_secure.federation.ledger_signatures import UNSIGNED
from fedit_secure.federation.signed_ledger import (
    identity_of,
    sign_event,
    verified_ledger,
)
from fedit_secure.privacy.ledger import KeyRotated, Ledger
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.storage.journal import Journal


def rotate_ledgers(
    journal: Journal, old: SigningKey | None, new: bytes
) -> tuple[str, ...]:
    """Enter the rotation in every ledger that isn't under the public key `new` yet; the
    populations whose ledgers changed.

    Done again after a crash, it goes on where that was. `old` is None where that key is
    out of use already: then nothing may be left to do.

    Raises:
        ConfigError: a ledger is under neither key. Nothing is written then.
        StorageError: the journal can't be written, or what is in it isn't a ledger.
    """
    due: list[Ledger] = []
    for population in journal.populations():
        ledger = verified_ledger(population, journal.ledger(population))
        here = identity_of(ledger)
        if here == new.hex():
            continue
        if old is None or here != old.public.hex():
            raise ConfigError(
                f"the ledger of {population!r} is under the key {here[:16]}..., which is "
                "neither the silo's old one nor its new one"
            )
        due.append(ledger)
    for ledger in due:
        assert old is not None
        event = KeyRotated(old=old.public.hex(), new=new.hex(), signature=UNSIGNED)
        after = ledger.append(sign_event(old, ledger, event))
        journal.commit(
            population=ledger.population,
            expected_sequence=ledger.sequence,
            entries=after.entries_after(ledger.sequence),
        )
    return tuple(ledger.population for ledger in due)
