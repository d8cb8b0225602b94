"""Records come in from every format; what is wrong is named with file, line, field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.job import ColumnMap, DataSource
from fedit_secure.tuning.records import MAX_CHARACTERS, Record, load_records

ROWS = [
    {"instruction": "Add", "input": "1+1", "response": "2", "category": "maths"},
    {"instruction": "Ünï", "input": "", "response": 'a, "b"\nc', "category": "x"},
]
RECORDS = [Record("Add", "1+1", "2", "maths"), Record("Ünï", "", 'a, "b"\nc', "x")]


def load(path: Path, **columns: str | None) -> list[Record]:
    return load_records(DataSource(path=str(path), columns=ColumnMap(**columns)))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_json_lines(tmp_path: Path) -> None:
    assert load(lines(tmp_path / "r.jsonl", *ROWS)) == RECORDS


def test_json_array_and_json_with_one_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(ROWS, indent=1), "utf-8")
    assert load(tmp_path / "r.json") == RECORDS
    assert load(lines(tmp_path / "l.json", *ROWS)) == RECORDS
    assert load(lines(tmp_path / "one.json", ROWS[0])) == RECORDS[:1]


def test_csv(tmp_path: Path) -> None:
    text = (
        'instruction,input,response,category\nAdd,1+1,2,maths\nÜnï,,"a, ""b""\nc",x\n'
    )
    (tmp_path / "r.csv").write_text(text, "utf-8")
    assert load(tmp_path / "r.csv") == RECORDS


def test_parquet_saved_folder_and_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    table.to_parquet(str(tmp_path / "r.parquet"))
    assert load(tmp_path / "r.parquet") == RECORDS
    table.save_to_disk(str(tmp_path / "plain"))
    assert load(tmp_path / "plain") == RECORDS
    both = datasets.DatasetDict({"train": table, "test": table.select([0])})
    both.save_to_disk(str(tmp_path / "both"))
    source = DataSource(path=str(tmp_path / "both"), split="test")
    assert load_records(source) == RECORDS[:1]
    with pytest.raises(ConfigError, match="no split 'dev', only test, train"):
        load_records(DataSource(path=str(tmp_path / "both"), split="dev"))
    # `datasets` reads a numeric column as numbers; a text is still asked for.
    datasets.Dataset.from_list([{"instruction": "a", "response": 5}]).to_parquet(
        str(tmp_path / "n.parquet")
    )
    with pytest.raises(ConfigError, match=r"row 1: the column 'response' holds a int"):
        load(tmp_path / "n.parquet")


def test_texts_stay_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"instruction": " 2020-01-01 ", "response": "{input} {x}\u2028 nan"},
        {"instruction": "null", "response": "007"},
    ]
    loaded = load(lines(tmp_path / "r.jsonl", *rows))
    assert [(r.instruction, r.response) for r in loaded] == [
        (" 2020-01-01 ", "{input} {x}\u2028 nan"),
        ("null", "007"),
    ]


def test_a_column_map_renames(tmp_path: Path) -> None:
    row = {"q": "why", "ctx": "so", "a": "thus", "kind": "k", "patient": 17}
    names = {"instruction": "q", "input": "ctx", "response": "a"}
    path = lines(tmp_path / "r.jsonl", row, row | {"patient": None, "ctx": None})
    loaded = load(path, **names, category="kind", person="patient")
    assert loaded == [
        Record("why", "so", "thus", "k", "17"),
        Record("why", "", "thus", "k", None),
    ]


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", {"instruction": "a", "response": "b"})
    assert load(path) == [Record("a", "", "b")]


def test_blank_lines_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('\ufeff\n{"instruction":"a","response":"b"}\n\n', "utf-8")
    assert load(path) == [Record("a", "", "b")]


GOOD = {"instruction": "a", "response": "b"}


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ({"instruction": "a"}, "line 2: the column 'response' is missing"),
        (GOOD | {"response": " \n"}, "line 2: the column 'response' is empty"),
        (GOOD | {"response": None}, "line 2: the column 'response' is empty"),
        (GOOD | {"response": 5}, "line 2: the column 'response' holds a int, not"),
        (GOOD | {"response": ["b"]}, "line 2: the column 'response' holds a list"),
        (GOOD | {"instruction": ""}, "line 2: the column 'instruction' is empty"),
        (GOOD | {"input": {}}, "line 2: the column 'input' holds a dict"),
        (GOOD | {"response": "x" * (MAX_CHARACTERS + 1)}, "line 2: .* characters"),
        ([1, 2], "line 2: isn't a JSON object"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, second: object, sentence: str) -> None:
    path = lines(tmp_path / "r.jsonl", GOOD, second)
    with pytest.raises(ConfigError, match=f"r.jsonl: {sentence}") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("r.jsonl", b"", "r.jsonl: has no records"),
        ("r.json", b"[]", "r.json: has no records"),
        ("r.csv", b"", "r.csv: has no records"),
        ("r.csv", b"instruction,response\n", "r.csv: has no records"),
        ("r.jsonl", b'{"instruction": "a"', "line 1: isn't valid JSON"),
        ("r.json", b'[{"instruction":\n "a"', "line 2: isn't valid JSON"),
        ("r.json", b"[3]", "record 1: isn't a JSON object"),
        ("r.jsonl", b'{"instruction": "caf\xe9"}', "r.jsonl: isn't UTF-8"),
        ("r.csv", b"instruction,response\na\n", "line 2: has another number"),
        ("r.csv", b'instruction,response\na,"b\n', "isn't valid CSV"),
        ("r.txt", b"hello", "the ending '.txt' isn't one of"),
        ("r.jsonl", b"[" * 100_000, "isn't valid JSON"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_column_lists_those_there_are(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", {"question": "a", "response": "b"})
    with pytest.raises(ConfigError, match="no column 'instruction'; its columns are q"):
        load(path)
    with pytest.raises(ConfigError, match="has no column 'patient'"):
        load(path, instruction="question", person="patient")
    with pytest.raises(ConfigError, match="has no column 'context'"):
        load(path, instruction="question", input="context")


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "r.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ConfigError, match="isn't a whole Parquet file"):
        load(tmp_path / "r.parquet")


def test_unknown_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        load(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="isn't a folder that `datasets` saved"):
        load(tmp_path / "empty")


def test_nothing_is_cached_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "r.parquet"))
    load(tmp_path / "r.parquet")
    load(lines(tmp_path / "r.jsonl", *ROWS))
    assert not cache.exists() or not list(cache.rglob("*.arrow"))
