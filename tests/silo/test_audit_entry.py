"""An audit in a silo's ledger: entered durably, charged nothing, on nobody's own records."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedit_secure.audit.canary.build import audit_event, synthetic_records
from fedit_secure.audit.canary.trials import game_plan
from fedit_secure.errors import PolicyRefusal, StorageError
from fedit_secure.privacy.ledger import AuditRun, Ledger, Opened
from fedit_secure.silo.audit_entry import enter, open_ledger, require_others_records
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.records import Record

WARD = "ward"
RECORDS = synthetic_records(0)
EVENT = audit_event(game_plan(1e-5), "synthetic", RECORDS)


@pytest.fixture
def journal(tmp_path: Path):
    with Journal.open(tmp_path / "journal.sqlite", create=True) as opened:
        yield opened


def open_one(journal: Journal) -> None:
    opened = Opened(
        silo="north",
        identity="0a" * 32,
        population=WARD,
        adjacency="zero-out",
        delta=1e-6,
        cap_epsilon=8.0,
        filter_order=3.0,
        fingerprints="0b" * 32,
        software="test",
    )
    entries = Ledger.open(opened).entries
    journal.commit(population=WARD, expected_sequence=0, entries=entries)


def test_an_audit_is_entered_durably_and_costs_nothing(journal: Journal) -> None:
    open_one(journal)
    after = enter(journal, WARD, EVENT)
    assert after.sequence == 2
    journal.close()
    with Journal.open(journal.path, read_only=True) as again:
        ledger = Ledger.from_entries(WARD, again.ledger(WARD))
    assert ledger.hash == after.hash
    found = ledger.events[-1]
    assert isinstance(found, AuditRun)
    assert (found.records, found.sample_rate, found.steps) == ("synthetic", 1.0, 1)
    assert found.noise_multiplier == 1.5
    assert ledger.intents() == ()
    assert ledger.spent().published == 0.0


def test_without_a_ledger_nothing_is_entered(journal: Journal) -> None:
    for call in (
        lambda: open_ledger(journal, WARD),
        lambda: enter(journal, WARD, EVENT),
    ):
        with pytest.raises(StorageError, match="'ward' has no ledger yet"):
            call()
    assert journal.populations() == ()


def test_the_digest_names_the_records(journal: Journal) -> None:
    plan = game_plan(1e-5)
    changed = [Record("other", "", "words"), *RECORDS[1:]]
    digests = {
        audit_event(plan, "public", records).data_digest
        for records in (RECORDS, changed, RECORDS[:-1])
    }
    assert len(digests) == 3
    assert EVENT.data_digest in digests


def test_the_populations_own_records_are_refused() -> None:
    own = [Record("What is it?", "", "It is a test."), Record("a", "b", "c")]
    require_others_records(RECORDS, own)
    hidden = [*RECORDS[:3], Record(" what IS  it?", "", "It is a\ntest.", "x", "p1")]
    with pytest.raises(
        PolicyRefusal, match=r"^record 4 of the audit's records is one of"
    ):
        require_others_records(hidden, own)
