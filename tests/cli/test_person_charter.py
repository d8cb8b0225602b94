"""A charter per person as operators meet it: shown, approved, refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from fedit_secure.cli import beside
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter

PERSONS = 400


@pytest.fixture
def silo(federation, make_person_charter):
    """A silo of 400 persons, two of which have several records, and their charter."""
    make_person_charter(federation, cap=3)
    folder = federation / "clinic-a"
    owners = [*range(PERSONS), 0, *[1] * 4]
    lines = (
        {"instruction": f"Ask {i}", "response": "Yes.", "patient": f"p{owner}"}
        for i, owner in enumerate(owners)
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "records.jsonl").write_text(text)
    edit(folder / "silo.yaml", "# person: patient_id", "person: patient #")
    return folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def approve(fedit, silo):
    return fedit("charter", "approve", silo / "silo.yaml", "--yes", "--format", "json")


def test_init_tells_persons(fedit, tmp_path):
    options = ("--contact", "x", "--folder", tmp_path / "a")
    assert fedit("silo", "init", "a", *options, "--tell-persons", 300).status == 0
    card = Card.load(tmp_path / "a" / "identity" / "a.card")
    assert (card.records, card.persons, card.names_persons) == (None, 300, True)
    options = ("--contact", "x", "--folder", tmp_path / "b")
    assert fedit("silo", "init", "b", *options, "--names-persons").status == 0
    card = Card.load(tmp_path / "b" / "identity" / "b.card")
    assert (card.persons, card.names_persons) == (None, True)


def test_show_names_the_unit_and_no_records(fedit, silo):
    path = silo.parent / "charter.json"
    facts = fedit("charter", "show", path, "--format", "json").json
    assert "per person with at most 3 records" in facts["privacy"]
    assert facts["roster"][0]["persons"] == PERSONS
    assert "records" not in facts["roster"][0]


def test_approve_counts_persons(fedit, silo):
    result = approve(fedit, silo)
    assert result.status == 0, result.err
    facts = result.json
    assert (facts["unit"], facts["persons"], facts["records"]) == ("person", 400, 405)
    assert (facts["records_per_person_at_most"], facts["persons_over_it"]) == (3, 1)
    assert (silo / "clinic-a.approval").exists()


def test_approve_of_a_charter_per_record_says_so(fedit, federation):
    facts = approve(fedit, federation / "clinic-a").json
    assert (facts["unit"], facts["records"]) == ("record", 400)
    assert "persons" not in facts


@pytest.mark.parametrize(
    ("where", "old", "new", "status", "sentence"),
    [
        ("silo.yaml", "person: patient #", "# person:", 4,
         "protects persons, and 'data.columns.person' doesn't say which column"),
        ("silo.yaml", "person: patient #", "person: ward #", 4, "has no column 'ward'"),
        ("records.jsonl", '"p399"', '"p398"', 6, "400 persons, and its data has 399"),
        ("../charter.json", '"delta": 1e-06', '"delta": 0.001', 6, "1/(10 * persons)"),
        ("policy.yaml", "tell_record_count: true", "tell_record_count: false", 6,
         "tells this silo's number of persons"),
    ],
)  # fmt: skip
def test_what_may_not_be_approved(
    fedit, silo, snapshot, where, old, new, status, sentence
):
    edit(silo / where, old, new)
    before = snapshot(silo)
    result = approve(fedit, silo)
    assert result.status == status, result.err
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert snapshot(silo) == before


def test_a_policy_that_asks_for_persons_refuses_a_charter_per_record(fedit, federation):
    silo = federation / "clinic-a"
    edit(
        silo / "policy.yaml", "require_person_unit: false", "require_person_unit: true"
    )
    result = approve(fedit, silo)
    assert result.status == 6
    assert (
        "protects single records, and this silo's policy asks for persons" in result.err
    )


# ------------------------------------------------------------------------ beside the claim


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["record", "person"])
def test_what_the_claim_does_not_say_is_shown_beside_it(
    fedit, federation, make_person_charter, monkeypatch, unit
):
    monkeypatch.setattr(beside, "SECONDS", 300.0)
    if unit == "person":
        make_person_charter(federation)
    path = federation / "charter.json"
    rows = fedit("charter", "show", path, "--format", "json").json[beside.BESIDE]
    claim, replaced, *others, silos = [row["epsilon"] for row in rows]
    assert 7.9 < claim <= 8 < silos < 2 * claim
    assert replaced > claim
    assert rows[1]["stated_by"] == "PLD alone"
    assert len(others) == (2 if unit == "record" else 0)
    assert ("person stays" in rows[1]["hidden"]) == (unit == "person")


def test_a_figure_that_is_not_there_in_time_is_said_to_be_missing(fedit, federation):
    """Nobody waits for ever, and nothing is guessed."""
    path = federation / "charter.json"
    facts = fedit("charter", "show", path, "--format", "json").json
    (row,) = facts[beside.BESIDE]
    assert row["epsilon"] == "not computed within 0 seconds"
    assert facts["roster"][0]["epsilon"] <= 8


@pytest.mark.slow
def test_a_figure_that_can_not_be_stated_says_why(federation):
    plan = Charter.load(federation / "charter.json").plan_for("clinic-a")
    other = replace(plan, delta=1e-5)
    *_, last = beside._computed(plan, (), (other,), 300.0)
    assert last["epsilon"].startswith("can't be stated: the plans of several silos")


STALLS = """\
import sys, time
print('{"hidden": "x", "epsilon": 1.0, "stated_by": "PLD alone"}', flush=True)
sys.stdout.write('{"hidden": "cut o')
sys.stdout.flush()
ENDING
"""


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        pytest.param(
            "time.sleep(600)", "not computed within 8 seconds", marks=pytest.mark.slow
        ),
        ("sys.exit(1)", "can't be stated: their process ended"),
    ],
)
def test_what_was_stated_before_an_end_is_kept(
    federation, tmp_path, monkeypatch, ending, says
):
    """Of an accountant that hangs or dies, the figures before it are shown."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n" + STALLS.replace("ENDING", ending))
    program.chmod(0o755)
    plan = Charter.load(federation / "charter.json").plan_for("clinic-a")
    monkeypatch.setattr(beside.sys, "executable", str(program))
    first, last = beside._computed(plan, (), (), 8.0)
    assert first["epsilon"] == 1.0
    assert last["epsilon"] == says


def test_without_dp_there_is_nothing_beside_it(federation):
    charter = Charter.load(federation / "charter.json")
    content = charter.model_dump(mode="json")
    content["dp"] |= {"kind": "none", "epsilon": None, "delta": None}
    for row in content["roster"]:
        row["dp"]["noise_multiplier"] = 0.0
    assert beside.beside_the_claim(Charter.model_validate(content), "clinic-a") == []
