"""Where a silo's population stands, by its open journal."""

from __future__ import annotations

import time

from fedit_secure.federation.admission import Account
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import verified_ledger
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.silo.charge_clock import ChargeClock
from fedit_secure.storage.journal import Journal


def account_in(journal: Journal, population: str, policy: Policy) -> Account:
    """The population's ledger, None before its first charter, and what it is held to.

    Raises StorageError if the journal is damaged, LedgerCorrupt if its ledger is.
    """
    ledger = ledger_in(journal, population)
    times = ChargeClock(journal, population, time.time).times(ledger)
    return Account(population, policy, ledger, times)


def ledger_in(journal: Journal, population: str) -> Ledger | None:
    """The population's ledger, None before its first charter. Raises as `account_in`."""
    entries = journal.ledger(population)
    return verified_ledger(population, entries) if entries else None
