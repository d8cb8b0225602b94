"""Two populations with the same records or persons: what one was charged, both count."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_federation import SmallFederation, found

from fedit_secure.errors import (
    BudgetExhausted,
    ConfigError,
    PolicyRefusal,
    StorageError,
)
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import verified_ledger
from fedit_secure.privacy.ledger import Inherited, Ledger, LedgerCorrupt
from fedit_secure.privacy.renyi import filter_epsilon
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.books import Books
from fedit_secure.silo.fingerprints import Prints, commitment
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.overlaps import inherit, inheritance, owed
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.records import Record

NAME = "s0"
POLICY = Policy(epsilon=8.0, delta=1e-5, tell_record_count=True)


def ward(start: int, stop: int, person: str = "p") -> list[Record]:
    return [
        Record(f"what of {n}?", "", f"this of {n}", person=f"{person}{n}")
        for n in range(start, stop)
    ]


class House:
    """One silo's journal, under a charter for each population."""

    def __init__(self, federation: SmallFederation, journal: Journal) -> None:
        self.federation, self.journal = federation, journal
        self.key = federation.silos[0].signing

    def charter(self, population: str):
        old = self.federation.charter
        first = old.roster[0].model_copy(update={"population": population})
        change = {"roster": (first, *old.roster[1:]), "run": f"of {population}"}
        return old.model_copy(update=change)

    def books(self, population: str) -> Books:
        states = StateStore(self.federation.root / "states")
        charter = self.charter(population)
        return Books(self.journal, states, charter, NAME, self.key, POLICY)

    def check(self, population: str, records: list[Record]) -> Books:
        books = self.books(population)
        books.check(commitment(records, self.key), Prints.of(records, self.key))
        return books

    def charge(self, population: str, records: list[Record], rounds: int = 1) -> Ledger:
        books = self.check(population, records)
        books.open()
        for _ in range(rounds):
            books.reserve(1)
        return self.ledger(population)

    def inherit(
        self, population: str, records: list[Record], reason: str = "one clinic"
    ) -> Ledger:
        return inherit(
            self.journal, self.charter(population), NAME, self.key, POLICY,
            commitment(records, self.key), Prints.of(records, self.key), reason,
        )  # fmt: skip

    def ledger(self, population: str) -> Ledger:
        return verified_ledger(population, self.journal.ledger(population))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    return found(tmp_path_factory.mktemp("house"), 4)


@pytest.fixture
def house(federation: SmallFederation, tmp_path: Path):
    with open_journal(tmp_path / "state") as journal:
        yield House(federation, journal)


OVERLAPS: dict[str, tuple[list[Record], str]] = {
    "same": (ward(0, 10), "10 records and 10 persons"),
    "one_record": ([*ward(9, 10), *ward(100, 110)], "1 records and 1 persons"),
    "one_person": (
        [replace(ward(50, 51)[0], person="p3"), *ward(60, 70)],
        "0 records and 1 persons",
    ),
    "under_other_ids": (ward(0, 3, "q"), "3 records and 0 persons"),
    "in_another_category": (
        [replace(r, category="x", person=None) for r in ward(2, 4)],
        "2 records and 0 persons",
    ),
}


@pytest.mark.parametrize("how", OVERLAPS)
def test_attack_fresh_budget_under_another_name(house: House, how: str) -> None:
    """The same records as a second population: refused before a word is written."""
    records, shared = OVERLAPS[how]
    house.charge("a", ward(0, 10))
    with pytest.raises(PolicyRefusal, match=f"'a' .{shared}.*fedit budget inherit"):
        house.check("b", records)
    assert house.journal.populations() == ("a",)


def test_populations_that_share_nothing_are_free(house: House) -> None:
    house.charge("a", ward(0, 10))
    ledger = house.charge("b", ward(10, 20))
    assert [type(e).__name__ for e in ledger.events] == ["Opened", "Intent"]
    house.charge("a", ward(0, 10))


def test_what_was_never_charged_needs_no_heir(house: House) -> None:
    house.check("a", ward(0, 10)).open()
    house.charge("b", ward(0, 10))
    with pytest.raises(PolicyRefusal, match="'b'"):
        house.check("a", ward(0, 10))


def test_the_heir_counts_every_charge(house: House) -> None:
    """Its epsilon is that of all charges together, from the entries alone."""
    before = house.charge("a", ward(0, 10), rounds=2)
    ledger = house.inherit("b", ward(5, 15))
    _, entry = ledger.events
    assert isinstance(entry, Inherited)
    assert (entry.source, entry.sequence, entry.hash, entry.reason) == (
        "a", before.sequence, before.hash.hex(), "one clinic",
    )  # fmt: skip
    plan = house.charter("b").plan_for(NAME)
    own = before.charges().own[0]
    assert [(c.sample_rate, c.noise_multiplier, c.steps, c.times) for c in entry.charges] == [
        (plan.sample_rate, plan.noise_multiplier, plan.local_steps, own.planned)
    ]  # fmt: skip
    whole = plan.run_event()
    from fedit_secure.privacy.accountant import spent_epsilons

    assert ledger.spent() == spent_epsilons(whole, ledger.delta)
    # The run asked for comes after charges that were seen: the filter decides.
    both = plan.event_of(own.planned + plan.charges)
    order = before.opened.filter_order
    expected = filter_epsilon(both, order, ledger.delta)
    assert ledger.would_cost(plan) == pytest.approx(expected)
    charged = house.charge("b", ward(5, 15))
    assert charged.spent().published > ledger.spent().published


def test_the_heir_of_an_exhausted_ledger_is_exhausted(house: House) -> None:
    house.charge("a", ward(0, 10))
    ledger = house.inherit("b", ward(0, 10))
    plan = house.charter("b").plan_for(NAME)
    cap = ledger.spent().published
    with pytest.raises(BudgetExhausted, match="of the cap of"):
        ledger.require_budget(plan, cap_epsilon=cap)


def test_it_holds_both_ways_and_at_any_time(house: House) -> None:
    """Once the heir is charged, the first one bears that, too. Nothing counts twice."""
    house.charge("a", ward(0, 10))
    house.inherit("b", ward(0, 10))
    house.charge("b", ward(0, 10))
    with pytest.raises(PolicyRefusal, match=r"'b' .10 records"):
        house.check("a", ward(0, 10))
    back = house.inherit("a", ward(0, 10))
    entry = back.events[-1]
    assert isinstance(entry, Inherited)
    assert (
        sum(c.times for c in entry.charges) == house.charter("b").plan_for(NAME).charges
    )
    house.charge("a", ward(0, 10))
    # b's plan was inherited whole, so its second round is no news to a; a's own plan is
    # none to b.
    house.charge("b", ward(0, 10))
    with pytest.raises(ConfigError, match="counts every charge"):
        house.inherit("a", ward(0, 10))


def test_a_data_version_that_brings_in_anothers_records(house: House) -> None:
    house.charge("a", ward(0, 10))
    house.charge("b", ward(10, 20))
    grown = ward(9, 20)
    with pytest.raises(PolicyRefusal, match=r"'a' .1 records and 1 persons"):
        house.check("b", grown)
    before = house.ledger("b")
    ledger = house.inherit("b", grown)
    assert [type(e).__name__ for e in ledger.events[before.sequence :]] == [
        "DataVersion",
        "Inherited",
    ]
    house.charge("b", grown)


def test_records_that_left_a_population_stay_charged(house: House) -> None:
    """Its ledger counts for those that it had, whatever it has now."""
    house.charge("a", ward(0, 10))
    house.charge("a", ward(5, 10))
    with pytest.raises(PolicyRefusal, match=r"'a' .5 records and 5 persons"):
        house.check("b", ward(0, 5))


def test_a_ledger_of_unknown_records_may_share_any(house: House) -> None:
    """One that was restored, or that had records before prints were kept."""
    books = house.books("a")
    books.admit(commitment(ward(0, 10), house.key))
    books.reserve(1)
    with pytest.raises(PolicyRefusal, match="nobody knows what it shares"):
        house.check("b", ward(10, 20))
    # Its own daemon makes them, if it always had the same records.
    house.charge("a", ward(0, 10))
    house.charge("b", ward(10, 20))


def test_prints_of_changed_records_are_not_all(house: House) -> None:
    books = house.books("a")
    books.admit(commitment(ward(0, 10), house.key))
    books.reserve(1)
    house.charge("a", ward(3, 10))
    with pytest.raises(PolicyRefusal, match="nobody knows what it shares"):
        house.check("b", ward(0, 3))


def test_prints_under_another_key_compare_with_nothing(house: House) -> None:
    house.charge("a", ward(0, 10))
    other = SigningKey.from_seed(bytes(32))
    records = ward(10, 20)
    (overlap,) = owed(house.journal, "b", None, Prints.of(records, other))
    assert not overlap.known


def test_units_dont_mix(house: House) -> None:
    ledger = house.charge("a", ward(0, 10))
    entry = inheritance(ledger, "b").model_copy(update={"unit": "person"})
    heir = house.charge("b", ward(10, 20))
    with pytest.raises(StorageError, match="the ledger's unit is the record"):
        heir.append(entry)


@pytest.mark.parametrize("reason", ["", "two\nlines", "x" * 201])
def test_a_reason_is_a_line(house: House, reason: str) -> None:
    house.charge("a", ward(0, 10))
    with pytest.raises(ConfigError, match="reason is one line"):
        house.inherit("b", ward(0, 10), reason)
    assert house.journal.populations() == ("a",)


# --------------------------------------------------------------- what an entry can't say


def edited(entry: bytes, **change: object) -> bytes:
    document = {**json.loads(entry), **change}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def uncharged(entry: bytes) -> bytes:
    charges = json.loads(entry)["charges"]
    return edited(entry, charges=[{**charge, "times": 1} for charge in charges])


FORGERIES: dict[str, Callable[[tuple[bytes, ...]], tuple[bytes, ...]]] = {
    "fewer_charges": lambda e: (e[0], uncharged(e[1])),
    "no_charges": lambda e: (e[0], edited(e[1], charges=[])),
    "another_source": lambda e: (e[0], edited(e[1], source="c")),
    "another_order": lambda e: (e[0], edited(e[1], filter_order=99.0)),
    "another_reason": lambda e: (e[0], edited(e[1], reason="because")),
    "into_another_ledger": lambda e: (edited(e[0], delta=1e-3), e[1]),
    "no_signature": lambda e: (e[0], edited(e[1], signature="00" * 64)),
}


@pytest.mark.parametrize("how", FORGERIES)
def test_attack_inheritance_forged(house: House, how: str) -> None:
    """Only the operator's key can say what is inherited, and only in its place."""
    house.charge("a", ward(0, 10))
    entries = house.inherit("b", ward(0, 10)).entries
    verified_ledger("b", entries)
    with pytest.raises(LedgerCorrupt, match="isn't signed by the silo's key") as caught:
        verified_ledger("b", FORGERIES[how](entries))
    assert caught.value.entry == 2


def test_attack_inheritance_moved(house: House) -> None:
    """Its signature names its place: neither a second time nor after others."""
    house.charge("a", ward(0, 10))
    entries = house.inherit("b", ward(0, 10)).entries
    with pytest.raises(LedgerCorrupt, match="isn't signed") as caught:
        verified_ledger("b", (*entries, entries[1]))
    assert caught.value.entry == 3


def test_attack_inheritance_taken_back(house: House) -> None:
    """A later entry of the same source never charges less, even under the right key."""
    house.charge("a", ward(0, 10))
    ledger = house.inherit("b", ward(0, 10))
    entry = ledger.events[1]
    assert isinstance(entry, Inherited)
    fewer = [c.model_copy(update={"times": 1}) for c in entry.charges]
    for change in ({"charges": tuple(fewer)}, {"charges": ()}, {"sequence": 1}):
        with pytest.raises(StorageError, match="takes back"):
            ledger.append(entry.model_copy(update=change))
    with pytest.raises(StorageError, match="filter order"):
        ledger.append(entry.model_copy(update={"filter_order": 99.0}))
    with pytest.raises(StorageError, match="from others"):
        ledger.append(entry.model_copy(update={"source": "b"}))


# ------------------------------------------------------------------------------- prints

texts = st.text(max_size=5)
records = st.builds(Record, texts, texts, texts, st.none() | texts, st.none() | texts)


@settings(max_examples=60, deadline=None)
@given(some=st.lists(records, max_size=6), more=st.lists(records, max_size=6))
def test_prints_find_exactly_what_is_shared(
    some: list[Record], more: list[Record]
) -> None:
    key = SigningKey.from_seed(b"k" * 32)
    one, two = Prints.of(some, key), Prints.of(more, key)
    assert Prints.from_bytes(one.to_bytes()) == one

    def said(rows: list[Record]) -> set[tuple[str, str, str]]:
        return {(r.instruction, r.input, r.response) for r in rows}

    persons = [{r.person for r in rows} - {None} for rows in (some, more)]
    assert len(one.records & two.records) == len(said(some) & said(more))
    assert len(one.persons & two.persons) == len(persons[0] & persons[1])
    assert not one.records & one.persons
    both = two.with_earlier(one)
    assert both.records == one.records | two.records
    assert both.whole


def test_prints_are_anothers_without_the_key() -> None:
    rows = ward(0, 5)
    one, two = (Prints.of(rows, SigningKey.from_seed(bytes([n]) * 32)) for n in (1, 2))
    assert not one.records & two.records
    assert not one.persons & two.persons
    assert not two.with_earlier(one).whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: b"",
        lambda d: d[:-1],
        lambda d: d[:20],
        lambda d: d + d[-16:],
        lambda d: b"\x02" + d[1:],
        lambda d: d[:33] + b"\xff" * 8 + d[41:],
    ],
)
def test_damaged_prints_are_refused(damage: Callable[[bytes], bytes]) -> None:
    data = Prints.of(ward(0, 3), SigningKey.from_seed(bytes(32))).to_bytes()
    with pytest.raises(StorageError, match="prints of a population are damaged"):
        Prints.from_bytes(damage(data))
