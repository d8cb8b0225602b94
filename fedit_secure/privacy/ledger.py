"""The privacy ledger: what was ever done with one population's records, hash-chained.

Pure values: `append` and `reserve` return a new ledger, and whoever holds the journal
makes it durable. h_0 is 32 zero bytes, h_k = SHA-256(h_{k-1} || entry_k). What the
charges cost is in `charges.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from fedit_secure.errors import BudgetExhausted, PolicyRefusal, StorageError
from fedit_secure.privacy.caps import LIFETIME, PUBLISHED, SLACK, Cap
from fedit_secure.privacy.carried_over import Inherited, Lost
from fedit_secure.privacy.charges import Charges
from fedit_secure.privacy.events import (
    Aborted,
    AuditRun,
    CapChanged,
    Committed,
    DataVersion,
    Event,
    Intent,
    KeyRotated,
    Masked,
    Opened,
    Released,
    Renewed,
    Revealed,
    Voided,
    decode,
)
from fedit_secure.privacy.history import History, Key
from fedit_secure.privacy.plan import DpPlan

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from fedit_secure.privacy.accountant import Epsilons

__all__ = [
    "Aborted",
    "AuditRun",
    "CapChanged",
    "Committed",
    "DataVersion",
    "Event",
    "Inherited",
    "Intent",
    "KeyRotated",
    "Ledger",
    "LedgerCorrupt",
    "Lost",
    "Masked",
    "Opened",
    "Released",
    "Renewed",
    "Revealed",
    "Voided",
    "recompute",
]


class LedgerCorrupt(StorageError):
    """Bytes that aren't this ledger; names the entry, counted from 1."""

    def __init__(self, population: str, entry: int, what: str) -> None:
        super().__init__(
            f"the ledger of {population!r} is corrupt at entry {entry}: {what}"
        )
        self.entry = entry
        self.what = what


class Ledger:
    """One population's entries, their events, and the chain's hash after each of them.

    Make one by `open` or `from_entries` only: they check what it promises. Immutable, and
    equal to every ledger of the same entries.
    """

    __slots__ = ("_history", "_sequence")

    def __init__(self, history: History, sequence: int) -> None:
        self._history, self._sequence = history, sequence

    def __repr__(self) -> str:
        return f"<Ledger of {self.population!r}, {self.sequence} entries>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.hash)

    @classmethod
    def open(cls, opened: Opened) -> Ledger:
        """A population's new ledger."""
        return cls(History().extended(0, opened), 1)

    @classmethod
    def from_entries(cls, population: str, entries: Iterable[bytes]) -> Ledger:
        """The ledger of stored or received bytes.

        Raises LedgerCorrupt, naming the entry, unless each is a canonical event that may
        follow those before it, and the first opens this population. A ledger cut short
        is whole in itself: hold it against a head that somebody kept (`require_head`).
        """
        history, number = History(), 0
        for number, entry in enumerate(entries, 1):
            try:
                event = decode(entry)
                history.take(bytes(entry), event)
            except ValueError as wrong:
                raise LedgerCorrupt(population, number, str(wrong)) from None
            if isinstance(event, Opened) and event.population != population:
                what = f"it opens the ledger of {event.population!r}"
                raise LedgerCorrupt(population, number, what)
        if not number:
            raise LedgerCorrupt(population, 1, "there is none")
        return cls(history, number)

    # -------------------------------------------------------------------------- its state

    @property
    def entries(self) -> tuple[bytes, ...]:
        """Every entry's bytes, from the first."""
        return self.entries_after(0)

    def entries_after(self, sequence: int) -> tuple[bytes, ...]:
        """The entries that follow the first `sequence` of them."""
        return tuple(self._history.entries[sequence : self._sequence])

    @property
    def events(self) -> tuple[Event, ...]:
        """The entries' events."""
        return tuple(self._history.events[: self._sequence])

    @property
    def last(self) -> Event:
        """The last entry's event."""
        return self._history.events[self._sequence - 1]

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The chain's hash after each entry, 32 bytes each."""
        return tuple(self._history.hashes[: self._sequence])

    @property
    def opened(self) -> Opened:
        first = self._history.events[0]
        assert isinstance(first, Opened)
        return first

    @property
    def population(self) -> str:
        return self.opened.population

    @property
    def delta(self) -> float:
        """The delta of the lifetime cap."""
        return self.opened.delta

    @property
    def cap_epsilon(self) -> float:
        """The lifetime cap as it stands, inf where there is none."""
        changed = self._history.last(CapChanged, self._sequence)
        if isinstance(changed, CapChanged):
            return changed.cap_epsilon
        cap = self.opened.cap_epsilon
        return math.inf if cap is None else cap

    @property
    def fingerprints(self) -> str:
        """The commitment to the records as they are now, in hex."""
        version = self._history.last(DataVersion, self._sequence)
        if isinstance(version, DataVersion):
            return version.new
        return self.opened.fingerprints

    @property
    def sequence(self) -> int:
        """The number of entries."""
        return self._sequence

    @property
    def hash(self) -> bytes:
        """The chain's hash after the last entry, 32 bytes."""
        return self._history.hashes[self._sequence - 1]

    def head_bytes(self) -> bytes:
        """What a signature of the head covers: population, sequence and hash, each behind
        its length as 8 little-endian bytes. Equal to `secagg`'s encoding of the head.
        """
        count = self.sequence.to_bytes(8, "little")
        fields = (self.population.encode(), count, self.hash)
        return b"".join(len(f).to_bytes(8, "little") + f for f in fields)

    def require_head(self, sequence: int, hash: bytes) -> None:
        """Raises LedgerCorrupt unless this ledger is at, or goes on from, a known head."""
        if not 1 <= sequence <= self.sequence:
            raise LedgerCorrupt(
                self.population,
                self.sequence + 1,
                f"it ends here, but a head after {sequence} entries is known",
            )
        if self._history.hashes[sequence - 1] != hash:
            raise LedgerCorrupt(
                self.population, sequence, "the known head has another hash"
            )

    def intents(self, charter: str | None = None) -> tuple[Intent, ...]:
        """All charges, or those of one charter (its digest in hex), in order."""
        key: Key = Intent if charter is None else (Intent, charter)
        found = self._history.of(key, self._sequence)
        return tuple(i for i in found if isinstance(i, Intent))

    def charged(self, charter: str) -> int:
        """How often a charter was charged."""
        return self._count((Intent, charter))

    def has_intent(self, charter: str, round: int) -> bool:
        """Whether this round of this charter was charged."""
        return bool(self._count((Intent, charter, round)))

    def lost_charges(self, charter: str) -> int:
        """Charges of a charter that haven't ended in a release, one in progress included."""
        return self.charged(charter) - self._count((Released, charter))

    # ------------------------------------------------------------------------ what it cost

    def charges(self) -> Charges:
        """All charges, for the accountants."""
        return Charges.of(self._history, self._sequence)

    def charged_event(self) -> DpEvent:
        """The composition of all intents, whatever became of them."""
        return self.charges().event()

    def spent(self, delta: float | None = None) -> Epsilons:
        """The epsilons of all charges so far, at the ledger's own delta or another.

        An odometer: what a run claims is its whole plan. It always has a figure: see
        `accountant.spent_epsilons`.
        """
        return self.charges().spent(self.delta if delta is None else delta)

    def would_cost(self, plan: DpPlan, *, charter: str | None = None) -> float:
        """Epsilon at the ledger's delta after the plan's whole run, spares included.

        `charter` (a digest in hex) says whose run it is; None: a charter not yet begun.
        Published epsilon or the filter's: see `charges.py`. inf where anything had no
        privacy. Raises PrivacyAccountingError out of the accountants' reach.
        """
        return self.charges().with_plan(plan, charter, self.delta)

    def counted_by(self, charter: str | None = None) -> str:
        """How `would_cost` composes this charter's run with what was charged."""
        charges = self.charges()
        if charges.fixed_beforehand(charter):
            return PUBLISHED
        orders = " and ".join(f"{order:g}" for order in charges.orders)
        return f"the Renyi filter of order {orders}"

    # ----------------------------------------------------------------------- what it allows

    def require_budget(
        self,
        plan: DpPlan,
        *,
        charter: str | None = None,
        cap_epsilon: float | None = None,
        allow_without_dp: bool = False,
    ) -> None:
        """Hold a charter's whole run against the lifetime cap, or against a lower one.

        Raises BudgetExhausted when it would exceed the cap or its charges are used up,
        PolicyRefusal for a plan without DP that isn't allowed, or one of another unit or
        adjacency. Before any tuning: the cost is known from the plan.
        """
        if plan.unit != self.opened.unit or (
            plan.sizes == "public" and self.opened.adjacency != "zero-out"
        ):
            raise PolicyRefusal(
                f"a plan per {plan.unit} with {plan.sizes} sizes doesn't go with the "
                f"{self.opened.adjacency} ledger per {self.opened.unit} of "
                f"{self.population!r}"
            )
        if charter is not None and self.charged(charter) >= plan.charges:
            raise BudgetExhausted(
                f"the charter's {plan.rounds} rounds and {plan.spare_charges} spare charges "
                f"are all charged to {self.population!r}"
            )
        if plan.kind == "none":
            if not allow_without_dp:
                raise PolicyRefusal(
                    f"a run without differential privacy isn't allowed on the records of "
                    f"{self.population!r}"
                )
            return
        own_cap = self.cap_epsilon
        cap = own_cap if cap_epsilon is None else min(own_cap, cap_epsilon)
        needed = self.would_cost(plan, charter=charter)
        if needed > cap + SLACK:
            from fedit_secure.privacy.accountant import spent_epsilons

            alone = spent_epsilons(plan.run_event(), self.delta).published
            spent, by = self.spent().published, self.counted_by(charter)
            terms = (self.population, LIFETIME, cap, self.delta, spent)
            raise Cap(*terms, alone, needed, by).exhausted()

    def reserve(
        self,
        plan: DpPlan,
        *,
        run: str,
        round: int,
        charter: str,
        state_digest: str,
        weight: int,
        dtype: Literal["float32", "float64"] = "float32",
        cap_epsilon: float | None = None,
        allow_without_dp: bool = False,
        max_lost_charges: int | None = None,
    ) -> Ledger:
        """The ledger with one more intent: make it durable before the first record is drawn.

        `charter` and `state_digest` are digests in hex. `cap_epsilon` may lower the
        ledger's own cap, never lift it. Raises what `require_budget` does for the rest of
        the whole run; BudgetExhausted when more than `max_lost_charges` of the charter's
        charges brought no release; StorageError when the intent doesn't fit the charter's
        earlier ones.
        """
        self.require_budget(
            plan,
            charter=charter,
            cap_epsilon=cap_epsilon,
            allow_without_dp=allow_without_dp,
        )
        lost = self.lost_charges(charter)
        if max_lost_charges is not None and lost > max_lost_charges:
            raise BudgetExhausted(
                f"{lost} charges of run {run!r} brought no release, and the policy allows "
                f"{max_lost_charges}"
            )
        return self._with(
            Intent.of(
                plan,
                charter=charter,
                run=run,
                round=round,
                state_digest=state_digest,
                weight=weight,
                dtype=dtype,
            )
        )

    def append(self, event: Event) -> Ledger:
        """The ledger with one more event, any but a charge, which `reserve` alone makes.

        Raises StorageError when the event can't come next, ValueError for an intent.
        """
        if isinstance(event, Intent):
            raise ValueError("an intent is a charge: it takes `reserve`")  # noqa: TRY004
        return self._with(event)

    # ------------------------------------------------------------------------------ inside

    def _with(self, event: Event) -> Ledger:
        try:
            history = self._history.extended(self._sequence, event)
        except ValueError as wrong:
            raise StorageError(f"the ledger can't take this entry: {wrong}") from None
        return Ledger(history, self._sequence + 1)

    def _count(self, key: Key) -> int:
        return self._history.count(key, self._sequence)


def recompute(entries: Iterable[bytes], delta: float) -> Epsilons:
    """The epsilons of a ledger's charges, from its bytes alone.

    Raises LedgerCorrupt as `Ledger.from_entries`.
    """
    kept = tuple(entries)
    try:
        first = decode(kept[0]) if kept else None
    except ValueError:
        first = None
    population = first.population if isinstance(first, Opened) else "?"
    return Ledger.from_entries(population, kept).spent(delta)
