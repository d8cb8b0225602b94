"""docs/tuning.md word for word: a user's own file to a finished run, and from Python."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fedit_secure.cli.main import main
from fedit_secure.config import load_simulation

GUIDE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
LAYOUTS = {
    "plain": ("instruction", "input", "response"),
    "own columns": ("question", "context", "answer"),
}
FORMATS = ("json", "jsonl", "csv", "parquet")
RECORDS = 48
WORDS = "the patient has a mild fever and takes one dose twice a day".split()  # noqa: SIM905


def block(name: str) -> str:
    """The code under a comment of docs/tuning.md."""
    pattern = rf"<!-- {re.escape(name)} -->\n```[a-z]*\n(.*?)```"
    (text,) = re.findall(pattern, GUIDE, re.DOTALL)
    return str(text)


def commands(layout: str) -> list[list[str]]:
    lines = [shlex.split(line) for line in block(f"own data: {layout}").splitlines()]
    assert len(lines) == 3
    assert all(line[0] == "fedit" for line in lines)
    return [line[1:] for line in lines]


def rows(layout: str, count: int = RECORDS) -> list[dict[str, str]]:
    texts = [
        (f"what is it {WORDS[n % 13]}", WORDS[n % 7] if n % 2 else "", WORDS[n % 5])
        for n in range(count)
    ]
    return [dict(zip(LAYOUTS[layout], text, strict=True)) for text in texts]


def written(path: Path, records: list[dict[str, str]]) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in records))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
    else:
        Dataset.from_list(records).to_parquet(str(path))


Fedit = Callable[[list[str]], Any]


@pytest.fixture
def here(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the base model, where a user types."""
    (tmp_path / "model").symlink_to(tiny_base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fedit(capsys: pytest.CaptureFixture[str]) -> Fedit:
    def run(line: list[str]) -> Any:
        status = main([*line, "--format", "json"])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out)

    return run


def combinations() -> list[Any]:
    """Two of them come to a finished run here, and all others in the slow tests: what is
    run is what the second command wrote, whatever the file was that it read."""
    found = []
    for number, ending in enumerate(FORMATS):
        for other, layout in enumerate(LAYOUTS):
            name = f"{ending}-{layout}"
            whole = (number, other) in ((0, 0), (3, 1))
            found.append(pytest.param(ending, layout, whole, id=name))
            if not whole:
                slow = pytest.mark.slow
                found.append(
                    pytest.param(ending, layout, True, id=f"{name}-run", marks=slow)
                )
    return found


@pytest.mark.parametrize(("ending", "layout", "whole"), combinations())
def test_three_commands(
    here: Path, fedit: Fedit, ending: str, layout: str, whole: bool
) -> None:
    written(here / f"records.{ending}", rows(layout))
    check, split, run = (
        [re.sub(r"^records\.[a-z]+$", f"records.{ending}", word) for word in line]
        for line in commands(layout)
    )
    found = fedit(check)
    assert (found["records"], found["records_with_input"]) == (RECORDS, RECORDS // 2)
    shared = fedit(split)
    assert shared["held_out"] == 12
    plan = load_simulation(here / "trial" / "simulation.yaml")
    assert sorted(plan.data) == ["silo-1", "silo-2", "silo-3"]
    assert plan.data["silo-1"].columns.instruction == LAYOUTS[layout][0]
    if not whole:
        return
    done = fedit(run)
    table = done["silos_by_round"]
    assert [row["round"] for row in table] == [0] * 3 + [1] * 3 + [2] * 3
    assert [row["in_sum"] for row in table] == [False] * 3 + [True] * 6
    spent = [row["epsilon"] for row in table if row["silo"] == "silo-2"]
    assert spent == sorted(spent)
    assert 0 == spent[0] < spent[1] < spent[2] <= 8
    assert all(row["nll"] > 0 for row in table)
    base = AutoModelForCausalLM.from_pretrained(here / "model")
    PeftModel.from_pretrained(base, here / "trial/run/run/adapter")


def test_the_lines_of_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many as were promised, and what they print is what they write."""
    text = block("from python")
    assert len([line for line in text.splitlines() if line.strip()]) <= 20
    for name in ("silo-1", "silo-2", "silo-3", "held-out"):
        written(here / f"{name}.csv", rows("own columns", 12))
    known: dict[str, Any] = {}
    exec(text, known)
    result, shown = known["result"], capsys.readouterr().out
    with (here / "rounds.csv").open() as file:
        told = list(csv.DictReader(file))
    assert len(told) == len(result.rows) == 12
    for row, kept in zip(result.rows, told, strict=True):
        assert (kept["round"], kept["silo"]) == (str(row.round), row.silo)
        assert float(kept["epsilon"]) == row.epsilon
        assert float(kept["nll"]) == row.nll
        assert f"{row.nll:.4g}" in shown
    last = result.rows[-1]
    assert last.upload_bytes == result.charter.secagg_params().payload_bytes
    assert last.epsilon == pytest.approx(result.epsilons["silo-3"])
    assert last.nll != result.rows[0].nll
    assert result.charter.server_rule.name == "halved"
    assert result.charter.run == "simulation-own-rule"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data check records.csv", "has no column 'instruction'; its columns are"),
        ("data check records.csv --columns question", "isn't field=column"),
        ("data check none.csv", "no such file"),
        ("data check records.txt", "isn't one of .json"),
        ("data split records.csv --model model -o trial", "has no column 'instruction'"),
        ("data split records.csv -o trial", "--scheme iid, which needs none"),
        (
            "data split records.csv -o trial --scheme iid --template nope",
            "known are alpaca, alpaca_short, chat, vicuna",
        ),
        ("data split records.csv -o full --scheme iid", "simulation.yaml exists already"),
    ],
)  # fmt: skip
def test_each_mistake_is_said_in_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, says: str
) -> None:
    written(here / "records.csv", rows("own columns", 6))
    (here / "records.txt").write_text("words")
    (here / "full").mkdir()
    (here / "full" / "simulation.yaml").write_text("mine")
    assert main(line.split()) == 4
    said = capsys.readouterr().err
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert not (here / "trial").exists()
    assert (here / "full" / "simulation.yaml").read_text() == "mine"


def test_two_silos_and_no_privacy_are_written_as_such(here: Path, fedit: Fedit) -> None:
    written(here / "records.csv", rows("plain", 20))
    fedit(
        shlex.split(
            "data split records.csv -o trial --scheme iid --silos 2 --without-dp "
            "--model model --template chat --rounds 2 --steps 1"
        )
    )
    plan = load_simulation(here / "trial" / "simulation.yaml")
    assert plan.dp.kind == "none"
    assert plan.dp.expected_batch == {"silo-1": 2, "silo-2": 2}
    assert plan.secagg.allow_pair
    assert (plan.template, plan.rounds, plan.tuning.local_steps) == ("chat", 2, 1)
    assert plan.held_out is None
