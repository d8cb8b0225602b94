"""`fedit data split`: every row in one silo, by each scheme, and nothing overwritten."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter

import numpy as np
import pytest

from fedit_secure.errors import ConfigError
from fedit_secure.tuning import allocation

SIZES = {"qa": 120, "summary": 60, "brainstorm": 40, "a, b": 20}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "all.jsonl"
    rows = [
        {
            "instruction": f"{label} {n}",
            "response": "Yes.",
            "category": label,
            "extra": n,
        }
        for label, size in SIZES.items()
        for n in range(size)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def held(folder):
    """Instructions by the folder that holds them."""
    return {
        path.parent.name: [json.loads(line) for line in path.open()]
        for path in sorted(folder.glob("*/records.jsonl"))
    }


def split(fedit, data, folder, *options):
    result = fedit("data", "split", data, "-o", folder, *options, "--format", "json")
    assert result.status == 0, result.err
    return result.json


@pytest.mark.parametrize(
    "scheme", ["iid", "dirichlet", "shards", "category", "natural"]
)
def test_every_row_is_in_one_silo_or_held_out(fedit, data, tmp_path, scheme):
    options = ("--scheme", scheme, "--held-out", 24, "--silos", 4, "--seed", 3)
    facts = split(fedit, data, tmp_path / "one", *options)
    silos = held(tmp_path / "one")
    kept_out = [json.loads(line) for line in (tmp_path / "one/held-out.jsonl").open()]
    names = [row["instruction"] for rows in [*silos.values(), kept_out] for row in rows]
    assert len(names) == len(set(names)) == sum(SIZES.values()) == facts["rows"]
    assert facts["held_out"] == len(kept_out) == 24
    # In proportion: a tenth of each.
    assert Counter(row["category"] for row in kept_out) == {
        label: size // 10 for label, size in SIZES.items()
    }
    assert len(silos) == 4
    assert {row["silo"]: row["rows"] for row in facts["silos"]} == {
        name: len(rows) for name, rows in silos.items()
    }
    for row in facts["silos"]:
        found = Counter(record["category"] for record in silos[row["silo"]])
        assert {label: row[label] for label in SIZES} == {
            label: found[label] for label in SIZES
        }
    assert silos[min(silos)][0].keys() == {
        "instruction",
        "response",
        "category",
        "extra",
    }
    # The seed decides: the same again, and another one otherwise.
    split(fedit, data, tmp_path / "two", *options)
    assert held(tmp_path / "two") == silos
    if scheme not in ("category", "natural"):
        split(fedit, data, tmp_path / "three", *options[:-1], 4)
        assert held(tmp_path / "three") != silos


def test_what_each_scheme_is(fedit, data, tmp_path):
    def labels(scheme, *options):
        split(fedit, data, tmp_path / scheme, "--scheme", scheme, *options)
        rows = held(tmp_path / scheme)
        return {name: Counter(r["category"] for r in own) for name, own in rows.items()}

    iid = labels("iid", "--silos", 4)
    assert {found.total() for found in iid.values()} == {60}
    assert all(15 < found["qa"] < 45 for found in iid.values())
    shards = labels("shards", "--silos", 4)
    assert {found.total() for found in shards.values()} == {60}
    assert all(len(found) <= 2 * 2 for found in shards.values())
    whole = labels("category", "--silos", 2)
    assert sorted(found.total() for found in whole.values()) == [120, 120]
    assert not set(whole["silo-1"]) & set(whole["silo-2"])
    natural = labels("natural", "--least", 30)
    assert natural == {
        label: Counter({label: size}) for label, size in SIZES.items() if size >= 30
    }


def test_a_smaller_alpha_makes_silos_less_alike():
    labels = [label for label, size in SIZES.items() for _ in range(size)]

    def unlikeness(alpha):
        rng, found = np.random.default_rng(0), []
        for _ in range(20):
            parts = allocation.dirichlet(labels, 4, alpha, rng)
            assert sorted(row for part in parts for row in part) == list(range(240))
            shares = [
                Counter(labels[row] for row in part)["qa"] / 120 for part in parts
            ]
            found.append(np.std(shares))
        return np.mean(found)

    assert unlikeness(0.1) > 2 * unlikeness(100.0)


def test_least_is_held_or_refused():
    labels, rng = ["a"] * 20 + ["b"] * 20, np.random.default_rng(0)
    for _ in range(20):
        assert min(map(len, allocation.dirichlet(labels, 3, 0.5, rng, least=8))) >= 8
    with pytest.raises(
        ConfigError, match=r"in 1000 draws at alpha 0\.5 some of 3 silos"
    ):
        allocation.dirichlet(labels, 3, 0.5, rng, least=14)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--column", "topic"),
            "has no column 'topic'; its columns are category, extra",
        ),
        (("--scheme", "category", "--silos", 5), "4 categories can't fill 5 silos"),
        (("--scheme", "iid", "--silos", 300), "240 rows to share among 300 silos"),
        (("--scheme", "iid", "--least", 100), "would have 60 rows, fewer than 100"),
        (
            ("--scheme", "natural", "--least", 100),
            "1 values of the column have 100 rows",
        ),
        (("--silos", 1), "Invalid value for '--silos'"),
        (("--picture", "who.txt"), "must be a file .svg or .png"),
    ],
)
def test_what_cannot_be_split_writes_nothing(fedit, data, tmp_path, options, sentence):
    result = fedit("data", "split", data, "-o", tmp_path / "out", *options)
    assert (result.status, result.out) == (4, "")
    assert sentence in result.err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(fedit, data, tmp_path, snapshot):
    split(fedit, data, tmp_path / "out")
    before = snapshot(tmp_path)
    result = fedit("data", "split", data, "-o", tmp_path / "out", "--seed", 1)
    assert result.status == 4
    assert "exists already, and is not overwritten" in result.err
    assert snapshot(tmp_path) == before


def test_the_table_as_csv_and_the_picture(fedit, data, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra [plots]")
    picture = tmp_path / "who.svg"
    command = ("data", "split", data, "-o", tmp_path / "out", "--picture", picture)
    result = fedit(*command, "--format", "csv")
    assert result.status == 0, result.err
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == ["silo", "rows", *SIZES]
    assert sum(int(row["rows"]) for row in rows) == sum(SIZES.values())
    assert picture.read_text().startswith("<?xml")
