"""A silo's privacy ledger: what it was charged, and what it may still be charged.

Every method that changes something returns only when it is durable. Whatever else belongs
to the same step is written in the same transaction.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from fedit_secure.errors import StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.heads import sign_head
from fedit_secure.federation.policy import Policy
from fedit_secure.privacy import ledger as pl
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.accounting import Ask, Question, answer
from fedit_secure.silo.charge_clock import ChargeClock
from fedit_secure.silo.fingerprints import Prints
from fedit_secure.silo.ledger_opening import (
    keep_receipt,
    new_ledger,
    require_known,
    require_open_charter,
    stored_ledger,
)
from fedit_secure.silo.overlaps import prints_note, require_inherited
from fedit_secure.silo.turns import in_turn
from fedit_secure.storage.journal import Journal


class LedgerBook:
    """The ledger of one silo's population, under one charter. `ask` is told every question
    to the accountants, and gives `accounting.answer`'s answer.
    """

    def __init__(
        self,
        journal: Journal,
        charter: Charter,
        name: str,
        key: SigningKey,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        *,
        ask: Ask = answer,
    ) -> None:
        self.turn, self._ask = threading.RLock(), ask
        self._journal, self._charter = journal, charter
        self._name, self._key, self._policy = name, key, policy
        self._row = charter.row(name)
        self.folder = journal.path.parent  # all that this silo keeps
        self._ledger = stored_ledger(journal, charter, name)
        self._records: tuple[bytes, Prints | None] | None = None
        self._clock = ChargeClock(journal, self._row.population, clock)

    def admit(self, fingerprints: bytes) -> None:
        """Hold the charter against the policy, and its whole run against what is left.

        Opens the population's ledger at its first charter; `fingerprints`, 32 bytes,
        commits to its records. Raises PolicyRefusal and BudgetExhausted; nothing is
        written then.
        """
        self.check(fingerprints)
        self.open()

    def check(self, fingerprints: bytes, prints: Prints | None = None) -> None:
        """As `admit`, without a word in the journal yet: that is for `open`.

        With the records' `prints` also that the ledger counts what other populations here
        were charged for them; PolicyRefusal otherwise.
        """
        require_open_charter(self._journal, self._charter)
        if prints is not None:
            of = self._row.population
            require_inherited(self._journal, of, self._ledger, prints)
        self._ask(self._question("admit", self._ledger))
        self._records = fingerprints, prints

    @in_turn
    def open(self) -> None:
        """Write what `check` was told and is new: the ledger, other records, prints."""
        if self._records is None:
            return
        fingerprints, prints = self._records
        terms = (self._charter, self._name, self._key, self._policy, fingerprints)
        before = self._ledger
        ledger = before or new_ledger(*terms, self._ask)
        known, now = ledger.fingerprints, fingerprints.hex()
        if known != now:
            ledger = ledger.append(pl.DataVersion(old=known, new=now))
        noted = prints_note(self._journal, ledger, before, prints) if prints else {}
        # Always, for the time's sake: by the latest one a clock set back is noticed.
        notes = {**noted, **self._clock.note(self._clock.times(before))}
        self._commit(ledger, notes=notes)
        self._records = None

    def require_known(self, head: m.LedgerHead | None) -> None:
        """Raises LedgerBehind unless the ledger is at a known head, or goes on from it."""
        require_known(self._ledger, self._row.population, self._name, head)

    @in_turn
    def check_budget(self) -> None:
        """Raises BudgetExhausted or PolicyRefusal if `charge` would."""
        self._ask(self._question("room", self._open_ledger()))

    @in_turn
    def charge(self, round: int, state_digest: bytes) -> None:
        """Charge one tuning of this round, which starts from this global state: durable
        before the first record is sampled.

        Raises PolicyRefusal or BudgetExhausted; nothing is written then.
        """
        before = self._open_ledger()
        where = {"round": round, "state_digest": state_digest.hex()}
        question = self._question("reserve", before, **where)
        entries = (*before.entries, self._ask(question).encode())
        after = pl.Ledger.from_entries(self._row.population, entries)
        self._commit(after, notes=self._clock.note(question.times.charged()))

    def spent(self) -> float:
        """Epsilon of every charge in the ledger at its own delta; inf without DP."""
        return self._open_ledger().spent().published

    def _question(
        self,
        what: Literal["admit", "room", "reserve"],
        ledger: pl.Ledger | None,
        **of: Any,
    ) -> Question:
        terms = (self._charter, self._name, self._policy)
        entries = () if ledger is None else ledger.entries
        return Question(what, *terms, entries, self._clock.times(ledger), **of)

    def head(self) -> m.LedgerHead:
        """The ledger's head as adverts carry it."""
        ledger = self._open_ledger()
        return m.LedgerHead(self._row.population, ledger.sequence, ledger.hash)

    @property
    def sequence(self) -> int:
        """The ledger's number of entries, 0 before it is open."""
        return 0 if self._ledger is None else self._ledger.sequence

    def signed_ledger(
        self, held: int = 0
    ) -> tuple[m.LedgerHead, bytes, tuple[bytes, ...]]:
        """The head, this silo's signature under it, and the entries after `held`."""
        head = self.head()
        signature = sign_head(self._key, self._name, head)
        return head, signature, self._open_ledger().entries_after(held)

    def countersigned(self, head: m.LedgerHead, signature: bytes) -> None:
        """Keep the aggregator's receipt."""
        keep_receipt(self._journal, self._charter, head, signature)

    def _open_ledger(self) -> pl.Ledger:
        if self._ledger is None:
            raise StorageError("the privacy ledger isn't open: admit the charter first")
        return self._ledger

    def _commit(self, after: pl.Ledger, **beside: Any) -> None:
        """One transaction; only then does this object know better than before. `beside`
        is what `Journal.commit` takes that belongs to the same step."""
        before = 0 if self._ledger is None else self._ledger.sequence
        self._journal.commit(
            population=self._row.population,
            expected_sequence=before,
            entries=after.entries_after(before),
            **beside,
        )
        self._ledger = after
