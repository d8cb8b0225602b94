"""`fedit config show`: every value in effect, and where it comes from."""

from __future__ import annotations

import csv
import io

import pytest
import yaml

from fedit_secure.config import KINDS, load_silo_config
from fedit_secure.errors import ConfigError

SILO = """\
name: clinic-a
identity: keys
state: state
charter: charter.json
approval: clinic-a.approval
policy: policy.yaml
model: ./base
data:
  path: ./records.jsonl
  columns:
    response: answer
"""
FILES = {
    "silo": SILO,
    "aggregator": (
        "identity: keys\nstate: s\ncharter: c\napprovals: a\ninitial_state: i\n"
        "listen: 0.0.0.0:7443\nhostnames: [hub, hub.example.org]\n"
    ),
    "policy": (
        "epsilon: 8\ndelta: 1e-6\nwindows:\n  - {days: 90, epsilon: 4}\n"
        'hours: {from: "20:00", until: "06:00", zone: UTC}\n'
    ),
    "plan": (
        "federation: north\nrun: first\naggregator: hub.example.org:7443\n"
        "base_model: ./base\nrounds: 3\nexpires: 2027-01-31\n"
        "tuning: {learning_rate: 1e-3, local_steps: 8}\n"
        "dp: {epsilon: 8, delta: 1e-6, expected_batch: {clinic-a: 64}}\n"
    ),
    "simulation": (
        "base_model: ./base\noutput: out\nrounds: 2\n"
        "tuning: {learning_rate: 1e-3, local_steps: 2}\n"
        "dp: {kind: none, expected_batch: 8}\n"
        "data:\n  a: {path: ./a.jsonl}\n  b: {path: ./b.jsonl}\n"
    ),
}


@pytest.fixture
def shown(fedit, tmp_path):
    """Shows a text as a file; returns origin and value by key."""

    def run(text, *options):
        path = tmp_path / "some.yaml"
        path.write_text(text)
        result = fedit("config", "show", path, "--origin", "--format", "json", *options)
        assert result.status == 0, result.err
        return {s["key"]: (s["value"], s["origin"]) for s in result.json["settings"]}

    return run


def test_where_each_value_comes_from(shown, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDIT_THREADS", "3")
    monkeypatch.setenv("FEDIT_DATA__COLUMNS__PERSON", "patient")
    monkeypatch.setenv("FEDIT_LOG_LEVEL", "debug")
    found = shown(SILO, "--set", "log_level=error", "--set", "aggregator.address=hub:1")
    file = f"{tmp_path}/some.yaml"
    assert found["name"] == ("clinic-a", f"{file} line 1")
    assert found["identity"] == (f"{tmp_path}/keys", f"{file} line 2")
    assert found["data.path"] == (f"{tmp_path}/records.jsonl", f"{file} line 9")
    assert found["data.columns.response"] == ("answer", f"{file} line 11")
    assert found["data.columns.instruction"] == ("instruction", "default")
    assert found["data.columns.person"] == ("patient", "FEDIT_DATA__COLUMNS__PERSON")
    assert found["threads"] == (3, "FEDIT_THREADS")
    assert found["log_level"] == ("error", "option log_level")
    assert found["aggregator.address"] == ("hub:1", "option aggregator.address")
    assert found["device"] == ("cpu", "default")


def test_what_replaces_a_whole_section_is_the_origin_of_all_in_it(shown, monkeypatch):
    monkeypatch.setenv("FEDIT_DATA", "{path: /x.jsonl, columns: {input: ask}}")
    found = shown(SILO)
    assert found["data.path"] == ("/x.jsonl", "FEDIT_DATA")
    assert found["data.columns.input"] == ("ask", "FEDIT_DATA")
    # The file's own line 11 says nothing any more.
    assert found["data.columns.response"] == ("response", "default")


def test_lists_are_one_value_and_lists_of_sections_are_not(shown):
    hub = shown(FILES["aggregator"])
    value, origin = hub["hostnames"]
    assert value == ["hub", "hub.example.org"]
    assert origin.endswith("line 7")
    policy = shown(FILES["policy"])
    assert policy["windows.0.days"][0] == 90
    assert policy["windows.0.epsilon"][1].endswith("line 4")
    assert policy["hours.from"] == ("20:00", policy["hours.until"][1])
    assert policy["allow_pair"] == (False, "default")


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_told_by_the_keys_and_the_yaml_is_the_whole_file(
    fedit, tmp_path, kind
):
    path = tmp_path / "some.yaml"
    path.write_text(FILES[kind])
    assert fedit("config", "show", path, "--format", "json").json["kind"] == kind
    result = fedit("config", "show", path, "--format", "yaml")
    assert result.status == 0, result.err
    content = yaml.safe_load(result.out)
    assert set(content) == {
        key for key in KINDS[kind].model_fields if content.get(key, "") != ""
    }
    # Read again, it comes to the same.
    path.write_text(result.out)
    again = fedit("config", "show", path, "--format", "yaml")
    assert (again.status, again.out) == (0, result.out)


def test_the_formats_say_the_same(fedit, tmp_path):
    path = tmp_path / "silo.yaml"
    path.write_text(SILO)
    command = ("config", "show", path, "--origin", "--format")
    rows = fedit(*command, "json").json["settings"]
    read = list(csv.DictReader(io.StringIO(fedit(*command, "csv").out)))
    assert [row["key"] for row in read] == [row["key"] for row in rows]
    assert list(read[0]) == list(rows[0]) == ["key", "value", "origin"]
    table = fedit(*command, "table").out
    assert all(row["key"] in table for row in rows)
    assert "origin" not in fedit("config", "show", path).out


def test_without_origins_there_are_keys_and_values_only(fedit, tmp_path):
    path = tmp_path / "silo.yaml"
    path.write_text(SILO)
    rows = fedit("config", "show", path, "--format", "json").json["settings"]
    assert {tuple(row) for row in rows} == {("key", "value")}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--kind", "silos"), "--kind should be one of silo, aggregator, policy"),
        (("--kind", "policy"), "the key 'name' is unknown"),
        (("--set", "threads"), "--set wants KEY=VALUE, not 'threads'"),
        (
            ("--set", "threads=two"),
            "option threads: the field 'threads' should be a who",
        ),
        (("--set", "data.columns.respnse=x"), "option data.columns.respnse: the key"),
        (("--format", "yaml", "--origin"), "YAML has no room for it"),
    ],
)
def test_what_cannot_be_shown(fedit, tmp_path, options, sentence):
    path = tmp_path / "silo.yaml"
    path.write_text(SILO)
    result = fedit("config", "show", path, *options)
    assert (result.status, result.out) == (4, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1


def test_a_file_of_no_kind(fedit, tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("colour: blue\n")
    result = fedit("config", "show", path)
    assert result.status == 4
    assert "don't tell which file it is: say --kind silo, aggregator" in result.err


def test_a_key_missing_in_a_section_that_a_variable_began(tmp_path, monkeypatch):
    path = tmp_path / "silo.yaml"
    path.write_text(SILO[: SILO.index("data:")])
    monkeypatch.setenv("FEDIT_DATA__SPLIT", "test")
    with pytest.raises(
        ConfigError, match=r"FEDIT_DATA__SPLIT: .*'data\.path' is missi"
    ):
        load_silo_config(path)
