"""When a silo was charged: noted with the charge itself, by a clock that never goes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from small_federation import POLICY as ONE_LOSS
from small_federation import SmallFederation, found

from fedit_secure.errors import BudgetExhausted, StorageError
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.silo.books import Books
from fedit_secure.silo.charge_clock import ChargeClock
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage import journal as journal_module
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import Journal

POLICY = ONE_LOSS.model_copy(update={"max_lost_charges": 9})
DAY, BEGIN = 86_400.0, 20_000 * 86_400.0


@dataclass
class Clock:
    """What the silo's clock shows, in seconds since 1970."""

    now: float = BEGIN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 3, rounds=4)


def books_of(
    federation: SmallFederation, journal: Journal, clock: Clock, policy: Policy = POLICY
) -> Books:
    own = federation.silos[0]
    states = StateStore(federation.root / own.name / "states")
    return Books(
        journal, states, federation.charter, own.name, own.signing, policy, clock
    )


def noted(journal: Journal) -> ChargeTimes:
    return ChargeTimes.from_bytes(journal.note("charge-times/s0"))


def charges(journal: Journal) -> int:
    return len(Ledger.from_entries("s0", journal.ledger("s0")).intents())


def test_each_charge_has_its_time_and_none_is_before_the_last(
    federation: SmallFederation,
) -> None:
    clock = Clock()
    with open_journal(federation.root / "s0") as journal:
        books = books_of(federation, journal, clock)
        books.admit(bytes(32))
        books.reserve(1)
        clock.now += 10 * DAY
        books.reserve(2)
        clock.now -= 100 * DAY  # somebody set it back
        books.reserve(3)
        kept = noted(journal)
    assert [(t - BEGIN) / DAY for t in kept.charges] == [0, 10, 10]
    # A new process sees the latest time all the same.
    with open_journal(federation.root / "s0") as journal:
        books_of(federation, journal, clock).admit(bytes(32))
        assert noted(journal) == kept
        clock.now = BEGIN + 50 * DAY
        books_of(federation, journal, clock).admit(bytes(32))
        assert noted(journal).seen == BEGIN + 50 * DAY
        assert noted(journal).charges == kept.charges


def test_attack_a_clock_set_back_makes_no_room(federation: SmallFederation) -> None:
    """Two charges in a window of ten days; the rest of the run waits for that."""
    plan, clock = federation.charter.plan_for("s0"), Clock()
    from fedit_secure.privacy.accountant import epsilons

    rest = epsilons(plan.event_of(3), plan.delta).published
    windows = [{"days": 10, "epsilon": rest}]
    tight = Policy.model_validate(POLICY.model_dump() | {"windows": windows})
    with open_journal(federation.root / "s0") as journal:
        books = books_of(federation, journal, clock)
        books.admit(bytes(32))
        for round in (1, 2):
            books.reserve(round)
        for days in (0, 5, -1, -1000):
            clock.now = BEGIN + days * DAY
            again = books_of(federation, journal, clock, tight)
            for act in (lambda: again.admit(bytes(32)), lambda: again.reserve(3)):  # noqa: B023
                with pytest.raises(BudgetExhausted, match="in any 10 days"):
                    act()
            assert charges(journal) == 2
        clock.now = BEGIN + 10 * DAY
        again = books_of(federation, journal, clock, tight)
        again.admit(bytes(32))
        again.reserve(3)
        assert charges(journal) == 3


def test_charge_and_time_are_one_transaction(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two leaves neither."""
    put = journal_module._put

    def failing(db: object, kind: str, key: str, value: bytes) -> None:
        if kind == "note" and key.startswith("charge-times/"):
            raise StorageError("the disk is full")
        put(db, kind, key, value)  # type: ignore[arg-type]

    with open_journal(federation.root / "s0") as journal:
        books = books_of(federation, journal, Clock())
        books.admit(bytes(32))
        before = noted(journal)
        monkeypatch.setattr(journal_module, "_put", failing)
        with pytest.raises(StorageError, match="the disk is full"):
            books.reserve(1)
        assert charges(journal) == 0
        assert noted(journal) == before


def test_charges_from_before_times_were_kept_count_as_of_now(
    federation: SmallFederation,
) -> None:
    clock = Clock()
    with open_journal(federation.root / "s0") as journal:
        books = books_of(federation, journal, clock)
        books.admit(bytes(32))
        books.reserve(1)
        journal.commit(notes={"charge-times/s0": ChargeTimes().to_bytes()})
        clock.now += 7 * DAY
        ledger = Ledger.from_entries("s0", journal.ledger("s0"))
        times = ChargeClock(journal, "s0", clock).times(ledger)
        assert times.charges == (BEGIN + 7 * DAY,)
        books.reserve(2)
        assert noted(journal).charges == (BEGIN + 7 * DAY,) * 2


def test_a_damaged_note_stops_the_silo(federation: SmallFederation) -> None:
    with open_journal(federation.root / "s0") as journal:
        books = books_of(federation, journal, Clock())
        books.admit(bytes(32))
        for note in (b"{}", b'{"charges":[1,1],"seen":1}'):
            journal.commit(notes={"charge-times/s0": note})
            with pytest.raises(StorageError, match=r"are damaged|noted 2 charges"):
                books.reserve(1)
        assert charges(journal) == 0


def test_no_time_is_in_the_ledger(federation: SmallFederation) -> None:
    entries = []
    for now in (BEGIN, BEGIN + 500 * DAY):
        folder = federation.root / f"at-{now:.0f}"
        with open_journal(folder) as journal:
            books = books_of(federation, journal, Clock(now))
            books.admit(bytes(32))
            books.reserve(1)
            entries.append(journal.ledger("s0"))
    assert entries[0] == entries[1]
