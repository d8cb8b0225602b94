"""`fedit budget show --plan`: this run would cost, you have, afterwards."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from fedit_secure.federation.charter import Charter
from fedit_secure.privacy.accountant import epsilons
from fedit_secure.privacy.ledger import Ledger, Opened
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.storage.journal import Journal

ME = "clinic-a"
OTHER = "9f" * 32


@pytest.fixture
def silo(federation):
    return federation / ME


@pytest.fixture
def charter(federation):
    return Charter.load(federation / "charter.json")


@pytest.fixture(autouse=True)
def _nothing_beside(monkeypatch):
    """What the epsilon hides takes seconds and has tests of its own."""
    rows = [{"hidden": "one", "epsilon": 1.0, "stated_by": "max(PLD, PRV)"}]
    monkeypatch.setattr("fedit_secure.cli.planned.beside_the_claim", lambda *a: rows)
    monkeypatch.setattr("fedit_secure.cli.planned.beside_a_plan", lambda *a: rows)


def keep_ledger(silo: Path, plan: DpPlan, charter: str, rounds: int, cap: float = 8.0):
    """Writes a ledger that has charged some rounds of a charter."""
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity="ab" * 32,
            population=ME,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=cap,
            filter_order=6.0,
            fingerprints="cd" * 32,
            software="test",
        )
    )
    for number in range(1, rounds + 1):
        ledger = ledger.reserve(
            plan, run="first", round=number, charter=charter,
            state_digest="00" * 32, weight=1,
        )  # fmt: skip
    (silo / "state").mkdir(exist_ok=True)
    with Journal.open(silo / "state" / "journal.sqlite", create=True) as journal:
        journal.commit(population=ME, expected_sequence=0, entries=ledger.entries)
    return ledger


def ask(fedit, silo, plan, *options):
    arguments = ("budget", "show", silo / "silo.yaml", "--plan", plan, *options)
    return fedit(*arguments, "--format", "json")


def test_a_charter_before_the_first_run(fedit, silo, charter, federation):
    result = ask(fedit, silo, federation / "charter.json")
    assert result.status == 0
    cost = charter.plan_for(ME).epsilons()
    facts = result.json
    assert facts["run_costs_epsilon"] == pytest.approx(cost.published)
    assert facts["after_the_run_epsilon"] == pytest.approx(cost.published)
    assert (facts["spent_epsilon"], facts["left_epsilon"]) == (0, 8)
    assert facts["fits"] is True
    rows = {row["accountant"]: row for row in facts["accountants"]}
    assert rows["PLD"]["this_run"] == pytest.approx(cost.pld)
    assert rows["PRV"]["afterwards"] == pytest.approx(cost.prv)
    assert rows["RDP, a bound"]["afterwards"] == pytest.approx(cost.rdp)
    assert rows["published"]["spent"] == 0
    assert len(facts["what_the_epsilon_hides"]) == 1
    table = fedit(
        "budget", "show", silo / "silo.yaml", "--plan", federation / "charter.json"
    )
    assert "after the run epsilon" in table.out


def test_a_plan_is_calibrated_as_drafting_would(fedit, silo, charter, federation):
    facts = ask(fedit, silo, federation / "plan.yaml").json
    row = charter.row(ME).dp
    assert (facts["rate"], facts["noise"]) == (row.sample_rate, row.noise_multiplier)
    by_charter = ask(fedit, silo, federation / "charter.json").json
    assert facts["run_costs_epsilon"] == by_charter["run_costs_epsilon"]
    # One with fewer records has a higher rate, and pays for it with noise.
    records = silo / "records.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:200]))
    fewer = ask(fedit, silo, federation / "plan.yaml").json
    assert fewer["rate"] == 64 / 200
    assert fewer["noise"] > facts["noise"]


def test_a_plan_per_person_counts_persons(fedit, silo, federation):
    plan = federation / "plan.yaml"
    plan.write_text(
        plan.read_text().replace("{epsilon: 8,", "{unit: person, epsilon: 8,")
    )
    refused = ask(fedit, silo, plan)  # its data names nobody yet
    assert refused.status == 4
    assert "names persons" in refused.err
    lines = [
        {"instruction": f"{n}", "response": "yes", "who": f"p{n % 100}"}
        for n in range(400)
    ]
    (silo / "records.jsonl").write_text("".join(json.dumps(li) + "\n" for li in lines))
    config = silo / "silo.yaml"
    text = config.read_text().replace("# person: patient_id", "person: who")
    config.write_text(text)
    facts = ask(fedit, silo, plan)
    assert facts.status == 0, facts.err
    assert facts.json["unit"] == "person"
    assert facts.json["rate"] == 0.64


def test_a_run_that_went_on_pays_for_the_rest_only(fedit, silo, charter, federation):
    plan = charter.plan_for(ME)
    keep_ledger(silo, plan, charter.digest().hex(), 2)
    facts = ask(fedit, silo, federation / "charter.json").json
    assert facts["charges_left"] == plan.charges - 2
    assert facts["after_the_run_epsilon"] == pytest.approx(plan.epsilons().published)
    assert facts["spent_epsilon"] == pytest.approx(
        epsilons(plan.event_of(2), 1e-6).published
    )
    assert facts["counted_by"] == "max(PLD, PRV)"


def test_a_second_run_that_does_not_fit_ends_with_7(fedit, silo, charter, federation):
    ledger = keep_ledger(silo, charter.plan_for(ME), OTHER, 1)
    result = ask(fedit, silo, federation / "charter.json")
    assert result.status == 7
    assert "of the cap of 8 is spent" in result.err
    facts = result.json  # said all the same
    assert facts["fits"] is False
    assert facts["counted_by"] == "the Renyi filter of order 6"
    assert facts["after_the_run_epsilon"] == pytest.approx(
        ledger.would_cost(charter.plan_for(ME))
    )
    (by_filter,) = (r for r in facts["accountants"] if "filter" in r["accountant"])
    assert by_filter["afterwards"] == facts["after_the_run_epsilon"]
    assert ask(fedit, silo, federation / "plan.yaml").status == 7


def test_the_policy_alone_may_refuse_the_first_run(fedit, silo, federation):
    policy = silo / "policy.yaml"
    policy.write_text(policy.read_text().replace("epsilon: 8", "epsilon: 3"))
    result = ask(fedit, silo, federation / "charter.json")
    assert result.status == 7
    assert "0 of the cap of 3 is spent" in result.err
    assert result.json["fits"] is False


def test_looking_at_a_plan_changes_nothing(fedit, silo, charter, federation, snapshot):
    keep_ledger(silo, charter.plan_for(ME), charter.digest().hex(), 1)
    before = snapshot(federation)
    assert ask(fedit, silo, federation / "charter.json").status == 0
    assert ask(fedit, silo, federation / "plan.yaml").status == 7
    assert snapshot(federation) == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing.json", "missing.json"), ("plan.txt", "neither a charter"),
     ("missing.yaml", "missing.yaml")],
)  # fmt: skip
def test_what_is_no_plan(fedit, silo, federation, name, sentence):
    result = ask(fedit, silo, federation / name)
    assert result.status == 4
    assert sentence in result.err


# ------------------------------------------------------------------------------- picture


def texts(path: Path) -> list[str]:
    return [
        comment.text.strip()
        for comment in ET.parse(
            path, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
        ).iter(ET.Comment)
    ]


def test_a_picture_of_what_is_spent_and_planned(fedit, silo, charter, federation):
    pytest.importorskip("matplotlib", reason="pictures need the extra [plots]")
    keep_ledger(silo, charter.plan_for(ME), charter.digest().hex(), 2)
    picture = federation / "budget.svg"
    plan = federation / "charter.json"
    assert ask(fedit, silo, plan, "--picture", picture).status == 0
    found = " | ".join(texts(picture))
    for words in (
        "Privacy budget of clinic-a", "charges to the ledger", "ε at δ = 1e-6",
        "spent so far: ", "planned rounds: ", "spare charges: ", "cap: 8",
    ):  # fmt: skip
        assert words in found
    assert "filter" not in found
    first = picture.read_bytes()
    assert ask(fedit, silo, plan, "--picture", picture).status == 0
    assert picture.read_bytes() == first


def test_a_picture_shows_what_the_filter_counts(fedit, silo, charter, federation):
    pytest.importorskip("matplotlib", reason="pictures need the extra [plots]")
    keep_ledger(silo, charter.plan_for(ME), OTHER, 1)
    picture = federation / "budget.svg"
    plan = federation / "charter.json"
    assert ask(fedit, silo, plan, "--picture", picture).status == 7
    assert "counted by the Rényi filter: " in " | ".join(texts(picture))


def test_a_picture_without_a_plan(fedit, silo, charter, federation):
    pytest.importorskip("matplotlib", reason="pictures need the extra [plots]")
    arguments = ("budget", "show", silo / "silo.yaml", "--picture")
    assert fedit(*arguments, federation / "empty.png").status == 0
    assert (federation / "empty.png").read_bytes().startswith(b"\x89PNG")
    keep_ledger(silo, charter.plan_for(ME), charter.digest().hex(), 1)
    assert fedit(*arguments, federation / "one.svg").status == 0
    assert "planned" not in " | ".join(texts(federation / "one.svg"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("budget.jpg", "must be a file .svg or .png"), ("nowhere/b.svg", "no folder")],
)
def test_where_no_picture_can_be(fedit, silo, federation, name, sentence):
    result = fedit("budget", "show", silo / "silo.yaml", "--picture", federation / name)
    assert result.status == 4
    assert sentence in result.err


def test_a_picture_without_the_extra(fedit, silo, federation, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "fedit_secure.cli.budget_picture.find_spec",
        lambda name: None if name == "matplotlib" else found(name),
    )
    result = fedit(
        "budget", "show", silo / "silo.yaml", "--picture", federation / "b.svg"
    )
    assert result.status == 4
    assert "pip install 'fedit-secure[plots]'" in result.err
    assert result.out == ""


def test_matplotlib_is_imported_for_a_picture_only(silo):
    code = (
        "import sys; from fedit_secure.cli.main import main; main(sys.argv[1:]);"
        "sys.exit('matplotlib' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "budget", "show"]
    done = subprocess.run([*command, str(silo / "silo.yaml")], check=False)
    assert done.returncode == 0
