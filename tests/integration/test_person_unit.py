"""`fedit_secure.simulate` with the person as the privacy unit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

import fedit_secure
from fedit_secure.errors import BudgetExhausted, ConfigError, PolicyRefusal
from fedit_secure.federation.policy import Policy
from fedit_secure.silo.books import Books
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.run import Tuner, run_plan
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.tuning.job import ColumnMap, DataSource
from fedit_secure.tuning.records import load_records

PERSONS = 8
COLUMNS = ColumnMap(person="patient")
EACH = [1, 1, 1, 2, 3, 5, 1, 2]  # records of each of the eight


@pytest.fixture
def sources(records: dict[str, Path], tmp_path: Path) -> dict[str, DataSource]:
    """Three silos' records, dealt to eight persons each in a shuffled order."""
    found = {}
    for number, (name, path) in enumerate(records.items()):
        text = path.read_text(encoding="utf-8").splitlines()[: sum(EACH)]
        owners = [f"p{who}" for who, many in enumerate(EACH) for _ in range(many)]
        random.Random(number).shuffle(owners)
        rows = [
            json.loads(line) | {"patient": owner}
            for line, owner in zip(text, owners, strict=True)
        ]
        own = tmp_path / f"{name}.jsonl"
        own.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = DataSource(path=str(own), columns=COLUMNS)
    return found


@pytest.fixture
def by_person(plan: dict[str, object]) -> dict[str, object]:
    dp = {**plan["dp"], "expected_batch": 2, "records_per_person": 3}  # type: ignore[dict-item]
    return {**plan, "dp": dp, "rounds": 1}


def test_a_run_per_person(
    sources: dict[str, DataSource], by_person: dict[str, object], tmp_path: Path
) -> None:
    """From the column that names persons to the ledger, without asking for it."""
    run = fedit_secure.simulate(sources, by_person, folder=tmp_path / "run")
    assert np.abs(run.adapter).max() > 0
    charter = run.charter
    assert (charter.dp.unit, charter.dp.records_per_person) == ("person", 3)
    for row in charter.roster:
        assert (row.persons, row.records) == (PERSONS, None)
        assert row.dp.sample_rate == 2 / PERSONS
        entries = (run.folder / "ledgers" / f"{row.name}.jsonl").read_bytes()
        opened, intent = (json.loads(entry) for entry in entries.splitlines()[:2])
        assert (opened["unit"], intent["unit"]) == ("person", "person")
        assert run.epsilons[row.name] <= 8


def test_the_tuner_draws_persons_and_caps_their_records(
    sources: dict[str, DataSource], by_person: dict[str, object], tmp_path: Path
) -> None:
    federation = found_federation(tmp_path / "run", run_plan(by_person), sources)
    tuner = Tuner(federation)
    for name, source in sources.items():
        units = tuner.units(name)
        assert units is not None
        assert sorted(map(len, units)) == sorted(min(3, many) for many in EACH)
        people = [r.person for r in load_records(source)]
        assert all(len({people[i] for i in unit}) == 1 for unit in units)


def test_a_planned_record_unit_wins(
    sources: dict[str, DataSource], plan: dict[str, object], tmp_path: Path
) -> None:
    dp = {**plan["dp"], "unit": "record", "expected_batch": 2}  # type: ignore[dict-item]
    federation = found_federation(
        tmp_path / "run", run_plan({**plan, "dp": dp}), sources
    )
    assert federation.charter.dp.unit == "record"
    assert federation.charter.roster[0].records == sum(EACH)
    assert Tuner(federation).units(federation.charter.roster[0].name) is None


def test_persons_are_not_made_up(
    records: dict[str, Path], by_person: dict[str, object], tmp_path: Path
) -> None:
    sources = {name: DataSource(path=str(path)) for name, path in records.items()}
    dp = {**by_person["dp"], "unit": "person"}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="says that its data names persons"):
        found_federation(tmp_path / "run", run_plan({**by_person, "dp": dp}), sources)


@pytest.mark.parametrize(
    ("first", "second"), [("record", "person"), ("person", "record")]
)
def test_attack_two_charters_that_mix_units_at_one_silo(
    sources: dict[str, DataSource],
    plan: dict[str, object],
    tmp_path: Path,
    first: str,
    second: str,
) -> None:
    """The ledger that the first charter opened refuses the second, whatever is left."""
    charters = {}
    for unit in (first, second):
        dp = {**plan["dp"], "unit": unit, "expected_batch": 2}  # type: ignore[dict-item]
        federation = found_federation(
            tmp_path / unit, run_plan({**plan, "dp": dp}), sources
        )
        charters[unit] = federation.charter
    name = federation.charter.roster[0].name
    key = federation.silos[name].signing
    policy = Policy(epsilon=1000.0, delta=1e-3, tell_record_count=True)
    states = StateStore(tmp_path / "states")
    with open_journal(tmp_path / "journal") as journal:
        Books(journal, states, charters[first], name, key, policy).admit(bytes(32))
        before = journal.ledger(name)
        books = Books(journal, states, charters[second], name, key, policy)
        for act in (lambda: books.admit(bytes(32)), lambda: books.reserve(1)):
            with pytest.raises(PolicyRefusal, match=f"per {second}.*per {first}") as no:
                act()
            assert not isinstance(no.value, BudgetExhausted)
        assert journal.ledger(name) == before
