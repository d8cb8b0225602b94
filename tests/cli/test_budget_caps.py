"""Every cap on the command line: shown, refused with status 7, and kept by a daemon."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.ledger import Ledger, Opened
from fedit_secure.storage.journal import Journal

ME = "clinic-a"
OTHER = "9f" * 32
DAY = 86_400


@pytest.fixture
def silo(federation):
    return federation / ME


@pytest.fixture
def charter(federation):
    return Charter.load(federation / "charter.json")


@pytest.fixture(autouse=True)
def _nothing_beside(monkeypatch):
    monkeypatch.setattr("fedit_secure.cli.planned.beside_the_claim", lambda *a: [])
    monkeypatch.setattr("fedit_secure.cli.planned.beside_a_plan", lambda *a: [])


def policy(silo: Path, **changes: object) -> None:
    path = silo / "policy.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def keep_ledger(silo, charter, rounds, *, own=False, days_ago=0, cap=100.0):
    """Some rounds of a charter, charged some days ago; `own`: of the charter itself."""
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity=charter.row(ME).identity,
            population=ME,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=cap,
            filter_order=4.0,
            fingerprints="cd" * 32,
            software="test",
        )
    )
    for number in range(1, rounds + 1):
        ledger = ledger.reserve(
            charter.plan_for(ME), run="first" if own else "before", round=number,
            charter=charter.digest().hex() if own else OTHER,
            state_digest="00" * 32, weight=1,
        )  # fmt: skip
    then = int(time.time()) - days_ago * DAY
    times = ChargeTimes(then, (then,) * rounds)
    (silo / "state").mkdir(exist_ok=True)
    with Journal.open(silo / "state" / "journal.sqlite", create=True) as journal:
        journal.commit(
            population=ME, expected_sequence=0, entries=ledger.entries,
            notes={f"charge-times/{ME}": times.to_bytes()},
        )  # fmt: skip
    return ledger


def show(fedit, silo, *options):
    return fedit("budget", "show", silo / "silo.yaml", *options, "--format", "json")


# -------------------------------------------------------------------------------- shown


def test_every_cap_is_a_row(fedit, silo, charter):
    plan = charter.plan_for(ME)
    keep_ledger(silo, charter, 2, days_ago=40)
    windows = [{"days": 30, "epsilon": 4}, {"days": 90, "epsilon": 6}]
    policy(silo, epsilon=50, epsilon_per_run=9, windows=windows)
    rows = show(fedit, silo).json["caps"]
    assert [row["covers"] for row in rows] == [
        "in all", "in any one run", "in any 30 days", "in any 90 days",
    ]  # fmt: skip
    spent = epsilons(plan.event_of(2), 1e-6).published
    whole = plan.epsilons().published
    assert [row["spent"] for row in rows] == pytest.approx([spent, whole, 0, spent])
    assert [row["cap"] for row in rows] == [50, 9, 4, 6]
    assert [row["left"] for row in rows] == [
        pytest.approx(max(0, row["cap"] - row["spent"])) for row in rows
    ]
    assert {row["delta"] for row in rows} == {1e-6}
    assert "in any 90 days" in fedit("budget", "show", silo / "silo.yaml").out


def test_before_the_first_run_nothing_is_spent_under_any_cap(fedit, silo):
    policy(silo, epsilon_per_run=9, windows=[{"days": 30, "epsilon": 4}])
    rows = show(fedit, silo).json["caps"]
    assert [(row["cap"], row["spent"], row["left"]) for row in rows] == [
        (8, 0, 8), (9, 0, 9), (4, 0, 4),
    ]  # fmt: skip


def test_with_a_plan_each_row_says_what_it_makes_and_whether_it_fits(
    fedit, silo, charter, federation
):
    ledger = keep_ledger(silo, charter, 2, days_ago=40)
    windows = [{"days": 30, "epsilon": 8}, {"days": 90, "epsilon": 9}]
    policy(silo, epsilon=50, epsilon_per_run=8, windows=windows)
    result = show(fedit, silo, "--plan", federation / "charter.json")
    assert result.status == 7, result.err
    assert "in any 90 days at delta 1e-06, by the Renyi filter of order 4" in result.err
    rows = result.json["caps"]
    cost = charter.plan_for(ME).epsilons().published
    assert [row["fits"] for row in rows] == [True, True, True, False]
    assert [row["this_run"] for row in rows] == pytest.approx([cost] * 4)
    assert [row["afterwards"] for row in rows[:3]] == pytest.approx(
        [ledger.would_cost(charter.plan_for(ME)), cost, cost]
    )
    assert result.json["fits"] is False
    assert rows[3]["afterwards"] > 9


def test_approve_shows_and_holds_every_cap(fedit, silo, snapshot):
    arguments = ("charter", "approve", silo / "silo.yaml", "--yes")
    policy(silo, epsilon_per_run=7)
    before = snapshot(silo)
    refused = fedit(*arguments)
    assert refused.status == 7
    assert "and the cap is 7 in any one run" in refused.err
    assert snapshot(silo) == before
    policy(silo, epsilon_per_run=8, windows=[{"days": 7, "epsilon": 8}])
    rows = fedit(*arguments, "--format", "json").json["caps"]
    assert [row["fits"] for row in rows] == [True] * 3


# ------------------------------------------------------------------------------- a daemon

OVER = {
    "in all": ({"epsilon": 7}, r"0 of the cap of 7 is spent"),
    "in any one run": ({"epsilon_per_run": 7}, r"the cap is 7 in any one run"),
    "in any 90 days": (
        {"windows": [{"days": 90, "epsilon": 7}]},
        "in any 90 days at delta 1e-06: it costs",
    ),
}


@pytest.fixture
def approved(fedit, silo, monkeypatch):
    """A silo that has approved the charter, and whose daemon may neither dial nor tune."""
    assert fedit("charter", "approve", silo / "silo.yaml", "--yes").status == 0
    for seam in ("connect", "tune_in_child"):
        reached = lambda *a, seam=seam, **k: pytest.fail(f"it came to {seam}")  # noqa: E731
        monkeypatch.setattr(f"fedit_secure.silo.serve.{seam}", reached)
    return silo


def intents(silo: Path) -> int:
    with Journal.open(silo / "state" / "journal.sqlite", read_only=True) as journal:
        entries = journal.ledger(ME)
    return sum(json.loads(entry)["kind"] == "intent" for entry in entries)


@pytest.mark.parametrize("covers", OVER)
def test_a_daemon_over_a_cap_ends_with_7_before_any_record(fedit, approved, covers):
    changes, sentence = OVER[covers]
    policy(approved, **changes)
    result = fedit("silo", "serve", approved / "silo.yaml")
    assert result.status == 7, result.err
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert intents(approved) == 0


def test_a_daemon_whose_days_are_spent_ends_with_7_and_later_does_not(
    fedit, approved, charter, monkeypatch
):
    keep_ledger(approved, charter, 1, days_ago=40)
    policy(approved, epsilon=50, windows=[{"days": 90, "epsilon": 8}])
    result = fedit("silo", "serve", approved / "silo.yaml")
    assert result.status == 7, result.err
    for part in ("in any 90 days", "by the Renyi filter of order 4", "of the cap of 8"):
        assert part in result.err
    assert intents(approved) == 1
    # Sixty days on, that charge is out of the window: the daemon comes to its dialling.
    later = time.time() + 60 * DAY
    monkeypatch.setattr("time.time", lambda: later)
    monkeypatch.setattr(
        "fedit_secure.silo.books.Books.__init__.__defaults__", (time.time,)
    )

    class Dialled(Exception):
        pass

    async def dial(*_: object, **__: object) -> None:
        raise Dialled

    monkeypatch.setattr("fedit_secure.silo.serve.connect", dial)
    assert "Dialled" in fedit("silo", "serve", approved / "silo.yaml").err


def test_a_run_under_way_stops_when_its_cap_was_lowered(fedit, approved, charter):
    keep_ledger(approved, charter, 1, own=True)
    policy(approved, epsilon_per_run=3)
    assert fedit("silo", "serve", approved / "silo.yaml").status == 7
    assert intents(approved) == 1


# -------------------------------------------------------------------------------- picture


def test_a_picture_has_a_bar_for_each_cap(fedit, silo, charter, federation):
    pytest.importorskip("matplotlib", reason="pictures need the extra [plots]")
    keep_ledger(silo, charter, 2, days_ago=40)
    windows = [{"days": 30, "epsilon": 8}, {"days": 90, "epsilon": 40}]
    policy(silo, epsilon=50, epsilon_per_run=8, windows=windows)
    picture = federation / "budget.svg"
    for options in ((), ("--plan", federation / "charter.json")):
        assert show(fedit, silo, "--picture", picture, *options).status == 0
        drawn = picture.read_text()
        for words in (
            "in any one run", "in any 30 days", "in any 90 days", "and the cap on it",
            " of 40", " of 50",
        ):  # fmt: skip
            assert words in drawn
    policy(silo, epsilon_per_run=None, windows=[])
    assert show(fedit, silo, "--picture", picture).status == 0
    assert "and the cap on it" not in picture.read_text()
