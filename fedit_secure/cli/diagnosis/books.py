"""What this silo's records have cost, and what the charter would add; the records."""

from __future__ import annotations

import math
import time
from pathlib import Path

from fedit_secure.cli.approving import check_charter
from fedit_secure.cli.diagnosis.checks import Case, Check, Skip, Warn
from fedit_secure.cli.standing import account_of, population_of
from fedit_secure.errors import BudgetExhausted
from fedit_secure.federation.aggregation import kept_factors
from fedit_secure.silo.ledger_opening import stored_ledger
from fedit_secure.silo.personal import Personal
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.units import count_units

_SKEW_HOURS = 1.0
_LITTLE = 0.1  # of the cap


def _ledger(case: Case) -> str | Warn:
    """Opened as the daemon opens it, but read only."""
    account = case.account = account_of(case.silo, population_of(case.identity))
    ahead = (account.times.seen - time.time()) / 3600
    if ahead > _SKEW_HOURS:
        return Warn(
            f"it has seen a time {ahead:,.0f} hours ahead of this clock", _SET_CLOCK
        )
    if account.ledger is None:
        return "nothing is charged yet, and there is none"
    if case.charter is not None:
        with Journal.open(
            case.silo.state / "journal.sqlite", read_only=True
        ) as journal:
            stored_ledger(journal, case.charter, case.silo.name)
    return f"{account.ledger.sequence} entries, whole, in order and signed for"


def _own_b(case: Case) -> str:
    charter, journal_path = case.charter, case.silo.state / "journal.sqlite"
    if charter is None or not kept_factors(charter.adapter.aggregation):
        return "no charter here has silos keep one"
    if not journal_path.exists():
        return "there is none yet"
    with Journal.open(journal_path, read_only=True) as journal:
        own = Personal(journal, charter, case.silo.name, case.silo.model)
        own.check(case.account.ledger)
        held = own.begins_with
    if held is None:
        return "there is none yet"
    return f"whole, after round {held.round} of epoch {held.epoch}"


def _epsilon(case: Case) -> str | Warn:
    account = case.account
    limit = account.lifetime_limit
    if limit == math.inf:
        return "no cap, for the policy sets none"
    spent = 0.0 if account.ledger is None else account.ledger.spent().published
    left = limit - spent
    said = f"{max(0.0, left):.3g} of {limit:g} is left"
    if left <= 0:
        raise BudgetExhausted(f"{spent:.3g} of {limit:g} is spent: nothing is left")
    return Warn(said) if left < _LITTLE * limit else said


def _data(case: Case) -> str | Skip:
    source = DataSource.model_validate(case.silo.data.model_dump())
    if case.offline and not Path(source.path).exists():
        return Skip("the records are on the hub (--offline)")
    records = load_records(source)
    said = f"{len(records):,} records"
    if source.columns.person is not None:
        said += f" of {count_units(records, 'person'):,} persons"
    return f"{said}, and every column is there"


def _admission(case: Case) -> str:
    check_charter(case.silo)
    return "data, policy and budget fit the charter: it would be admitted"


_SET_CLOCK = (
    "Set the clock; if it was ahead by mistake, windows stand still until then."
)

LEDGER = Check(
    "ledger",
    _ledger,
    "Don't touch it; put the aggregator's copy back with fedit budget restore.",
    needs=("identity", "policy"),
)
OWN_B = Check(
    "own-b",
    _own_b,
    "Restore it, or start over, with fedit silo personal.",
    needs=("ledger",),
)
EPSILON = Check(
    "epsilon",
    _epsilon,
    "Plan a run that fits what is left (fedit budget show --plan), or have the cap raised "
    "with fedit budget set.",
    needs=("ledger",),
)
DATA = Check(
    "data",
    _data,
    "Correct what the sentence names in the records, or in 'data' of silo.yaml.",
    needs=("configuration",),
)
ADMISSION = Check(
    "admission",
    _admission,
    "Agree with the coordinator on a charter that fits, or change policy.yaml.",
    needs=("charter", "ledger", "data"),
)
