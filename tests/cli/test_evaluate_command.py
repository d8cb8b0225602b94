"""`fedit evaluate`: from a file to a table, and what is said of a silo's own records."""

from __future__ import annotations

import csv
import io
import json
import stat

import pytest
from evaluation.adapted import demo_adapter

from fedit_secure.demo.base_model_files import base_model_path

LINES = [
    {"q": f"Say {n} twice.", "a": f"{n} {n}", "kind": "odd" if n % 2 else "even"}
    for n in range(6)
]
COLUMNS = "instruction=q,response=a,category=kind"


@pytest.fixture
def adapter(tmp_path):
    return demo_adapter(tmp_path / "adapter")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_base_and_adapter_side_by_side(fedit, adapter, data, tmp_path):
    output = tmp_path / "report.json"
    done = fedit(
        "evaluate", data, "--adapter", adapter, "--columns", COLUMNS,
        "--max-new-tokens", 3, "--output", output, "--format", "json",
    )  # fmt: skip
    assert done.status == 0, done.err
    rows = done.json["scores"]
    assert [(row["model"], row["category"], row["records"]) for row in rows] == [
        (model, category, count)
        for model in ("base", str(adapter))
        for category, count in ((None, 6), ("even", 3), ("odd", 3))
    ]
    assert "private" not in done.json
    assert f"{adapter}: answers: 6 done" in done.err
    kept = json.loads(output.read_text())
    assert kept["scores"] == rows
    assert [set(line["answers"]) for line in kept["answers"]] == [
        {"base", str(adapter)}
    ] * 6
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_csv_is_one_row_per_model_and_category(fedit, data):
    done = fedit(
        "evaluate", data, "--model", base_model_path(), "--columns", COLUMNS,
        "--max-new-tokens", 0, "--format", "csv",
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["category"] for row in rows] == ["", "even", "odd"]
    assert {row["rouge_l"] for row in rows} == {""}


def test_a_limit_draws_the_same_records_for_the_same_seed(fedit, data):
    def nll(seed):
        done = fedit(
            "evaluate", data, "--model", base_model_path(), "--columns", COLUMNS,
            "--max-new-tokens", 0, "--limit", 2, "--seed", seed, "--format", "json",
        )  # fmt: skip
        assert done.json["records"] == "2 of 6"
        return done.json["scores"][0]["nll"]

    assert nll(1) == nll(1)
    assert len({nll(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_a_silos_own_records_are_marked(fedit, federation, snapshot, format):
    config = federation / "clinic-a" / "silo.yaml"
    before = snapshot(federation)
    done = fedit(
        "evaluate", "--silo", config, "--model", federation / "base",
        "--max-new-tokens", 0, "--limit", 3, "--format", format,
    )  # fmt: skip
    assert done.status == 0, done.err
    told = done.err if format == "csv" else done.out
    assert "depend on them without any privacy" in told
    assert snapshot(federation) == before  # nothing is kept unless it's asked for


def test_the_charter_of_a_silo_says_which_base_is_right(fedit, federation):
    (federation / "base" / "added_tokens.json").write_text("{}")
    config = federation / "clinic-a" / "silo.yaml"
    done = fedit("evaluate", "--silo", config, "--model", federation / "base")
    assert done.status == 4
    assert "isn't the base model that was agreed on" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give the records to score"),
        (("data", "--silo", "silo.yaml"), "give the records to score"),
        (("data", "--tasks", "piqa"), "bring their own data"),
        (("DATA",), "give --model"),
        (("DATA", "--model", "BASE"), "no column 'instruction'"),
        (("DATA", "--model", "BASE", "--columns", "prompt=q"), "isn't field=column"),
        (
            ("DATA", "--model", "BASE", "--device", "tpu"),
            "isn't one of cpu, cuda, auto",
        ),
        (("DATA", "--model", "BASE", "--template", "x"), "unknown template 'x'"),
        (("DATA", "--model", "BASE", "--merged", "none"), "no such folder"),
        (("DATA", "--model", "BASE", "--adapter", "none"), "no such adapter folder"),
        (("--tasks", ",", "--model", "BASE"), "names no task"),
    ],
)
def test_bad_arguments_get_one_sentence(fedit, data, options, said):
    places = {"DATA": data, "BASE": base_model_path()}
    done = fedit("evaluate", *(places.get(option, option) for option in options))
    assert done.status == 4
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_a_silo_that_holds_records_out_is_scored_on_those(fedit, federation):
    config = federation / "clinic-a" / "silo.yaml"
    text = config.read_text()
    for held_out, records in (("fraction: 0.05", None), ("fraction: 1.0e-9", 0)):
        own = f"data:\n  held_out: {{{held_out}}}\n"
        config.write_text(text.replace("data:\n", own, 1))
        done = fedit(
            "evaluate", "--silo", config, "--model", federation / "base",
            "--max-new-tokens", 0, "--format", "json",
        )  # fmt: skip
        if records is None:
            tried, of = map(int, done.json["records"].split(" of "))
            assert tried == of
            assert 5 <= of <= 40  # of 400
        else:
            assert done.status == 4
            assert "'data.held_out' holds out none" in done.err
