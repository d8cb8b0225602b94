"""`fedit budget history`: all that bears on a budget, in order."""

from __future__ import annotations

import csv
import io
import json

import pytest

from fedit_secure.cli import history as history_module
from fedit_secure.cli.history import history_table
from fedit_secure.federation.admission import Account
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import next_change
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.storage.journal import Journal

ME = "clinic-a"
DIGEST = "11" * 32
DAY = 86_400
PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.5,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=300,
    spare_charges=1,
    delta=1e-6,
)
CHARTER = "01" * 32


def ledger_of(identity: str = "ab" * 32) -> pl.Ledger:
    return pl.Ledger.open(
        pl.Opened(
            silo=ME,
            identity=identity,
            population=ME,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=50.0,
            filter_order=4.0,
            fingerprints="cd" * 32,
            software="test",
        )
    )


def charge(ledger: pl.Ledger, round: int) -> pl.Ledger:
    return ledger.reserve(
        PLAN, run="spring", round=round, charter=CHARTER, state_digest="00" * 32,
        weight=1,
    )  # fmt: skip


def events(ledger: pl.Ledger, *more: pl.Event) -> pl.Ledger:
    for event in more:
        ledger = ledger.append(event)
    return ledger


def released(round: int, names: tuple[str, ...] | None) -> pl.Released:
    return pl.Released(
        charter=CHARTER, round=round, release_digest=DIGEST, state_digest=DIGEST,
        contributors=names, sum_digest=None if names is None else DIGEST,
    )  # fmt: skip


def committed(round: int) -> pl.Committed:
    return pl.Committed(charter=CHARTER, round=round, update_digest=DIGEST)


@pytest.fixture
def silo(federation):
    return federation / ME


@pytest.fixture
def story(silo):
    """A ledger in which everything happened, in the silo's journal."""
    key = load_identity(silo / "identity").signing
    ledger = charge(ledger_of(key.public.hex()), 1)
    ledger = events(ledger, committed(1), released(1, (ME, "clinic-b")))
    ledger = charge(charge(ledger, 2), 2)
    ledger = events(ledger, committed(2), released(2, ("clinic-b", "clinic-c")))
    ledger = events(ledger, next_change(ledger, 60.0, "board, 2 May").signed(key))
    ledger = events(ledger, pl.DataVersion(old="cd" * 32, new="ce" * 32))
    ledger = events(charge(ledger, 3), pl.Aborted(charter=CHARTER, round=3))
    ledger = events(charge(ledger, 4), released(4, None))
    ledger = events(charge(ledger, 5), committed(5))
    ledger = charge(ledger, 6)
    times = ChargeTimes(19_010 * DAY, tuple((19_000 + n) * DAY for n in range(7)))
    (silo / "state").mkdir()
    with Journal.open(silo / "state" / "journal.sqlite", create=True) as journal:
        journal.commit(
            population=ME, expected_sequence=0, entries=ledger.entries,
            notes={f"charge-times/{ME}": times.to_bytes()},
        )  # fmt: skip
    return ledger


EXPECTED = [
    ("opened", None, "per record, at delta 1e-06", 50),
    ("intent", 1, "released", 50),
    ("intent", 2, "begun, then tuned again", 50),
    ("intent", 2, "released without it", 50),
    ("cap-changed", None, "board, 2 May", 60),
    ("data-version", None, "the records changed", 60),
    ("intent", 3, "no sum (skipped)", 60),
    ("intent", 4, "released", 60),
    ("intent", 5, "tuned", 60),
    ("intent", 6, "begun", 60),
]


def test_every_charge_and_change_in_order(fedit, silo, story):
    result = fedit("budget", "history", silo / "silo.yaml", "--format", "json")
    assert result.status == 0, result.err
    rows = result.json["history"]
    assert [(r["event"], r["round"], r["what"], r["cap"]) for r in rows] == EXPECTED
    assert [r["entry"] for r in rows] == sorted(r["entry"] for r in rows)
    for row in rows:
        event = json.loads(story.entries[row["entry"] - 1])
        assert (event["kind"], event.get("run"), event.get("round")) == (
            row["event"], row["run"], row["round"],
        )  # fmt: skip
    charges = [row for row in rows if row["event"] == "intent"]
    assert [row["epsilon"] for row in charges] == pytest.approx(
        [epsilons(PLAN.event_of(n), 1e-6).published for n in range(1, 8)]
    )
    assert [row["no_later_than"] for row in charges][:2] == ["2022-01-08", "2022-01-09"]
    assert {row["epsilon"] for row in rows if row["event"] != "intent"} == {None}


def test_as_csv_and_as_a_table(fedit, silo, story):
    result = fedit("budget", "history", silo / "silo.yaml", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    found = [(r["event"], r["round"], r["what"], float(r["cap"])) for r in rows]
    assert found == [(e, str(n or ""), w, c) for e, n, w, c in EXPECTED]
    exact = fedit("budget", "history", silo / "silo.yaml", "--format", "json").json
    assert [r["epsilon"] for r in rows] == [
        "" if r["epsilon"] is None else repr(r["epsilon"]) for r in exact["history"]
    ]
    table = fedit("budget", "history", silo / "silo.yaml").out
    assert "board, 2 May" in table
    assert "2022-01-08" in table


def test_before_the_first_charter(fedit, silo):
    result = fedit("budget", "history", silo / "silo.yaml", "--format", "json")
    assert (result.status, result.json["history"]) == (0, [])
    result = fedit("budget", "history", silo / "silo.yaml", "--format", "csv")
    assert (result.status, result.out) == (0, "")


def test_looking_changes_nothing(fedit, silo, story, snapshot):
    before = snapshot(silo)
    with Journal.open(silo / "state" / "journal.sqlite"):  # a daemon may run
        assert fedit("budget", "history", silo / "silo.yaml").status == 0
    after = {k: v for k, v in snapshot(silo).items() if not k.endswith(".lock")}
    assert after == {k: v for k, v in before.items() if not k.endswith(".lock")}


def test_of_many_charges_few_are_accounted(monkeypatch):
    """At most fifty, evenly spread, the first and the last among them, each once."""
    entries = [
        pl.Intent.of(
            PLAN, charter=CHARTER, run="spring", round=round, state_digest="00" * 32,
            weight=1, dtype="float32",
        ).to_bytes()
        for round in range(1, 201)
    ]  # fmt: skip
    ledger = pl.Ledger.from_entries(ME, [*ledger_of().entries, *entries])
    asked: list[int] = []

    def counting(events, delta):
        asked.append(len(events))
        return float(len(events))

    monkeypatch.setattr("fedit_secure.cli.spending.epsilon_of", counting)
    account = Account(ME, Policy(epsilon=9.0, delta=1e-6), ledger, ChargeTimes())
    rows = history_table(account)
    assert len(rows) == 201
    computed = {n: row["epsilon"] for n, row in enumerate(rows) if row["epsilon"]}
    assert all(n == epsilon for n, epsilon in computed.items())
    assert len(computed) <= history_module.MOST_POINTS == 50
    assert {200} <= set(computed)
    assert min(computed) <= 4
    assert sorted(asked) == [0, *sorted(computed)]
    gaps = [b - a for a, b in zip(sorted(computed), sorted(computed)[1:], strict=False)]
    assert set(gaps) == {4}


def test_without_dp_it_is_unbounded():
    none = DpPlan(
        kind="none", sample_rate=0.05, noise_multiplier=0, clip=1.0, expected_batch=64,
        local_steps=8, rounds=3, delta=None,
    )  # fmt: skip
    ledger = charge(ledger_of(), 1).reserve(
        none, run="bare", round=1, charter="02" * 32, state_digest="00" * 32, weight=1,
        allow_without_dp=True,
    )  # fmt: skip
    rows = history_table(Account(ME, Policy(allow_without_dp=True), ledger))
    assert rows[-1]["epsilon"] == "unbounded"


def test_the_charter_is_not_needed(fedit, silo, story, federation):
    assert Charter.load(federation / "charter.json")
    (federation / "charter.json").unlink()
    assert fedit("budget", "history", silo / "silo.yaml").status == 0
