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
    journal: Journal, population: str, old: SigningKey | None, new: bytes
) -> tuple[str, ...]:
    """Enter the rotation to the public key `new` in every ledger under the old key; the
    populations whose ledgers changed.

    `population` is the one that the silo goes on with. Another's ledger may be under a key
    that was lost, and stays there. Done again after a crash, it goes on where that was;
    `old` is None where that key is out of use already, and nothing may be left to do.

    Raises:
        ConfigError: the population's ledger is under neither key. Nothing is written then.
        StorageError: the journal can't be written, or what is in it isn't a ledger.
    """
    due: list[Ledger] = []
    for name in journal.populations():
        ledger = verified_ledger(name, journal.ledger(name))
        here = identity_of(ledger)
        if old is not None and here == old.public.hex():
            due.append(ledger)
        elif here != new.hex() and name == population:
            raise ConfigError(
                f"the ledger of {name!r} is under the key {here[:16]}..., which is neither "
                "the silo's old one nor its new one"
            )
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
