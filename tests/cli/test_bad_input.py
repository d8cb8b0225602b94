"""Bad records, models and adapters, through commands: one sentence, status 4, nothing lost."""

from __future__ import annotations

import json
import shutil

import pytest

RECORDS = "records.jsonl"


def row(number, **more):
    return {"instruction": f"Ask {number}", "response": f"Say {number}.", **more}


def lines(*rows):
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


def truncated_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "whole.parquet"
    pq.write_table(pa.Table.from_pylist([row(n) for n in range(200)]), path)
    return path.read_bytes()[:-50]


# What is in which file, and what is said of it.
BAD = {
    "a missing column": (
        RECORDS, lines({"instruction": "Ask"}), "has no column 'response'; its columns"),
    "a column missing in one record": (
        RECORDS, lines(row(1), {"instruction": "Ask"}), "line 2: the column 'response' is m"),
    "an empty response": (
        RECORDS, lines(row(1), row(2, response="  ")), "line 2: the column 'response' is em"),
    "another encoding": (
        RECORDS, lines(row(1)) + "{'é'}".encode("latin-1"), "isn't UTF-8 text: byte "),
    "no JSON": (RECORDS, lines(row(1)) + b"{oops\n", "line 2: isn't valid JSON"),
    "a list": (RECORDS, lines(row(1)) + b"[1]\n", "line 2: isn't a JSON object"),
    "a number for a text": (
        RECORDS, lines(row(1), row(2, response=7)), "line 2: the column 'response' holds a"),
    "ten million characters": (
        RECORDS, lines(row(1), row(2, response="x" * 10_000_000)),
        "line 2: the column 'response' holds 10000000 characters, more than 1000000"),
    "a column twice": (
        RECORDS, lines(row(1)) + b'{"instruction": "a", "response": "b", "response": "c"}\n',
        "line 2: isn't valid JSON: the column 'response' is there twice"),
    "no record": (RECORDS, b"", "has no records"),
    "another ending": ("records.xlsx", b"PK", "the ending '.xlsx' isn't one of"),
    "a truncated Parquet file": ("records.parquet", truncated_parquet, "isn't a whole Parq"),
    "no Parquet file": ("records.parquet", b"PAR1nothing", "isn't a whole Parquet file"),
    "a CSV column twice": (
        "records.csv", b"instruction,response,response\na,b,c\n",
        "line 1: the column 'response' is there twice"),
    "a CSV line too short": (
        "records.csv", b"instruction,response\na,b\nc\n", "line 3: has another number of f"),
    "a folder that nobody saved": ("records", None, "isn't a folder that `datasets` saved"),
    "no file": ("./nowhere.jsonl", b"", "nowhere.jsonl: no such file or folder"),
}  # fmt: skip


@pytest.fixture(params=BAD)
def bad(request, federation, tmp_path):
    """A silo whose records are bad, and what is to be said of them."""
    file, content, sentence = BAD[request.param]
    silo = federation / "clinic-a"
    config = silo / "silo.yaml"
    text = config.read_text().replace("path: records.jsonl", f"path: {file}")
    config.write_text(text.replace("model: model", "model: ../base"))
    (silo / RECORDS).unlink()
    if content is None:
        (silo / file).mkdir()
    elif not file.startswith("."):
        data = content(tmp_path) if callable(content) else content
        (silo / file).write_bytes(data)
    return silo, sentence


def refused(result, sentence):
    assert result.status == 4, result.err
    said = result.err.splitlines()[-1]
    assert said.startswith("fedit: ")
    assert sentence in said
    assert len(said) < 500  # it doesn't quote the records
    assert result.out == ""


def test_bad_records_are_one_sentence_and_nothing_is_lost(fedit, bad, snapshot):
    silo, sentence = bad
    before = snapshot(silo)
    for command in (("data", "check"), ("charter", "approve", "--yes")):
        result = fedit(*command[:2], silo / "silo.yaml", *command[2:])
        refused(result, sentence)
        assert len(result.err.splitlines()) == 1
    assert snapshot(silo) == before


def test_the_daemon_says_it_before_it_dials_or_charges(
    fedit, federation, snapshot, monkeypatch
):
    def dial(*_, **__):
        raise AssertionError("it dialled")

    monkeypatch.setattr("fedit_secure.silo.serve.connect", dial)
    silo = federation / "clinic-a"
    assert fedit("charter", "approve", silo / "silo.yaml", "--yes").status == 0
    for file, content, sentence in BAD.values():
        if content is None or callable(content) or file.startswith("."):
            continue
        (silo / file).write_bytes(content)
        config = silo / "silo.yaml"
        good = config.read_text()
        config.write_text(good.replace("path: records.jsonl", f"path: {file}"))
        refused(fedit("silo", "serve", config), sentence)
        config.write_text(good)
    facts = fedit("budget", "show", silo / "silo.yaml", "--format", "json").json
    assert (facts["ledger_entries"], facts["epsilon_spent"]) == (0, 0.0)


# ------------------------------------------------------------- plans, models and adapters


def another_template(root):
    edit(root / "plan.yaml", "rounds: 3", "rounds: 3\ntemplate: alpacca")


def targets_that_the_model_lacks(root):
    edit(root / "plan.yaml", "[layers.3.mlp.down_proj]", "[query_key_value]")


def an_adapter_of_another_shape(root):
    edit(root / "plan.yaml", "rank: 2", "rank: 4")


def an_adapter_that_is_none(root):
    (root / "given.bin").write_bytes(b"fedit")


def a_model_that_is_none(root):
    (root / "base" / "config.json").unlink()


def weights_that_are_cut(root):
    (path,) = (root / "base").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])


def two_cards_of_one_name(root):
    shutil.copytree(root / "clinic-b" / "identity", root / "again")


DRAFTS = {
    another_template: "unknown template 'alpacca'; known are alpaca",
    targets_that_the_model_lacks: "LoRA doesn't fit the base model",
    an_adapter_of_another_shape: "lora_A.weight (2, 352) in the place of",
    an_adapter_that_is_none: "given.bin",
    a_model_that_is_none: "holds no config.json",
    weights_that_are_cut: "base",
    two_cards_of_one_name: "'clinic-b'",
}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("spoil", DRAFTS, ids=lambda spoil: spoil.__name__)
def test_a_charter_that_cannot_be_drafted(fedit, federation, snapshot, spoil):
    root = federation
    (root / "initial-state.bin").unlink()
    spoil(root)
    cards = [path.parent for path in root.glob("*/identity/*.card")]
    cards += [path for path in (root / "again",) if path.exists()]
    before = snapshot(root)
    result = fedit(
        "charter", "draft", root / "plan.yaml", *cards, "-o", root / "new.json"
    )
    refused(result, DRAFTS[spoil])
    assert snapshot(root) == before


def test_a_template_that_this_version_lacks(fedit, federation, snapshot):
    silo = federation / "clinic-a"
    edit(silo / "silo.yaml", "model: model", "model: ../base")
    edit(federation / "charter.json", '"name": "alpaca"', '"name": "another"')
    refused(fedit("data", "check", silo / "silo.yaml"), "unknown template 'another'")
