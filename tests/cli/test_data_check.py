"""`fedit data check`: what an operator learns of the records, and from what."""

from __future__ import annotations

import json

import pytest

from fedit_secure.demo.base_model_files import base_model_path


@pytest.fixture
def silo(federation):
    """A silo whose data names patients, with a base model to count tokens by."""
    folder = federation / "clinic-a"
    path = folder / "silo.yaml"
    text = path.read_text().replace("# person: patient_id", "person: patient #")
    path.write_text(text.replace("model: model", f"model: {base_model_path()}"))
    return folder


def check(fedit, silo, *lines, charter=False):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (silo / "records.jsonl").write_text(text)
    if not charter:
        (silo.parent / "charter.json").unlink(missing_ok=True)
    result = fedit("data", "check", silo / "silo.yaml", "--format", "json")
    assert result.status == 0, result.err
    return result.json


def row(number, person=None, response="Yes.", **more):
    row = {"instruction": f"Ask {number}", "response": response, **more}
    return row if person is None else row | {"patient": person}


def test_counts_of_records(fedit, silo):
    facts = check(
        fedit,
        silo,
        row(1, "p", category="x"),
        row(2, "p", category="y"),
        row(3, "q", input="i"),
        row(4, response="x" * 100),
    )
    assert facts["records"] == 4
    assert facts["records_with_input"] == 1
    assert facts["categories"] == 2
    assert facts["longest_characters"] == 105


def test_duplicates_within_and_across_persons(fedit, silo):
    facts = check(
        fedit,
        silo,
        *[row(1, "p")] * 3,  # one person's own
        *[row(2, "p"), row(2, "q")],  # two persons'
        *[row(3)] * 2,  # of two persons, for all that is known
        *[row(4, "q"), row(5, "q")],
    )
    assert facts["exact_duplicates"] == 7
    assert facts["most_times_a_record_occurs"] == 3
    assert facts["exact_duplicates_across_persons"] == 4
    assert facts["duplicates"] == [
        {"times": 3, "distinct_records": 1},
        {"times": 2, "distinct_records": 2},
    ]


def test_sizes_of_persons(fedit, silo):
    sizes = {"a": 1, "b": 1, "c": 1, "d": 2, "e": 2, "f": 3, "g": 4, "h": 7, "i": 9}
    lines = [row(f"{name}{i}", name) for name, n in sizes.items() for i in range(n)]
    facts = check(fedit, silo, *lines, row("nobody's"))
    assert facts["persons"] == 10
    assert facts["records_without_a_person"] == 1
    assert facts["records_per_person_median"] == 2
    assert facts["records_per_person_90_percent"] == 7
    assert facts["records_per_person_most"] == 9
    assert facts["persons_by_records"] == [
        {"records_of_a_person": "1", "persons": 4},
        {"records_of_a_person": "2", "persons": 2},
        {"records_of_a_person": "3-4", "persons": 2},
        {"records_of_a_person": "5-8", "persons": 1},
        {"records_of_a_person": "9-16", "persons": 1},
    ]


def test_the_largest_delta_of_each_unit(fedit, silo):
    facts = check(fedit, silo, *[row(i, "p") for i in range(9)], row(9, "q"))
    assert facts["largest_delta_per_record"] == pytest.approx(1 / 100)
    assert facts["largest_delta_per_person"] == pytest.approx(1 / 20)


def test_what_is_not_known_is_not_said(fedit, silo):
    """No column of persons, and no charter."""
    path = silo / "silo.yaml"
    path.write_text(path.read_text().replace("person: patient", "# person: patient"))
    facts = check(fedit, silo, row(1), row(1))
    unknown = (
        "persons", "records_without_a_person", "records_per_person_most",
        "exact_duplicates_across_persons", "largest_delta_per_person", "max_tokens",
        "records_cut", "persons_with_more", "charter_unit",
    )  # fmt: skip
    assert {facts[name] for name in unknown} == {None}
    assert facts["persons_by_records"] == []
    assert facts["exact_duplicates"] == 2


def test_what_the_cut_takes(fedit, silo):
    """Three records at 64 tokens: one that fits, one long question, one long answer."""
    facts = check(
        fedit,
        silo,
        row(1, "p"),
        {"instruction": "word " * 500, "response": "Yes."},
        row(2, response="word " * 500),
        charter=True,
    )
    assert facts["charter_unit"] == "record"
    assert facts["max_tokens"] == 64
    assert facts["records_cut"] == 2
    assert facts["prompts_cut"] >= 1
    assert facts["responses_cut"] == 1
    assert 0.7 < facts["share_of_tokens_lost"] < 1
    assert facts["records_without_response_tokens"] == 0


def test_what_a_cap_leaves_out(fedit, silo, make_person_charter):
    make_person_charter(silo.parent, cap=2)
    lines = [row(f"p{i}", "p") for i in range(5)] + [
        row(f"q{i}", "q") for i in range(3)
    ]
    facts = check(fedit, silo, *lines, row("r", "r"), charter=True)
    assert facts["charter_unit"] == "person"
    assert facts["records_per_person_at_most"] == 2
    assert facts["persons_with_more"] == 2
    assert facts["records_left_out"] == 4


def test_the_table_and_the_help_say_that_nothing_leaves(fedit, silo):
    assert "Nothing of it leaves the silo" in fedit("data", "check", "--help").out
    (silo.parent / "charter.json").unlink()
    (silo / "records.jsonl").write_text(json.dumps(row(1, "p")) + "\n")
    table = fedit("data", "check", silo / "silo.yaml")
    assert table.status == 0
    assert "records without a person" in table.out
    assert "persons by records" in table.out
