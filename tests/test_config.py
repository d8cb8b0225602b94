from __future__ import annotations

from pathlib import Path

import pytest

from fedit_secure.config import (
    load_aggregator_config,
    load_plan,
    load_policy,
    load_silo_config,
    load_simulation,
)
from fedit_secure.errors import ConfigError

SILO = """\
name: clinic-a
identity: keys
state: /var/lib/fedit
charter: charter.json
approval: clinic-a.approval
policy: policy.yaml
model: base
data:
  path: records.jsonl
  columns:
    response: answer
"""

PLAN = """\
federation: north
run: first
aggregator: hub.example.org:7443
base_model: ./base
rounds: 3
expires: 2027-01-31
tuning:
  learning_rate: 1e-3
  local_steps: 8
dp:
  epsilon: 8
  delta: 1e-6
  expected_batch: {clinic-a: 64, clinic-b: 128}
"""


@pytest.fixture(autouse=True)
def no_outside_variables(monkeypatch):
    import os

    for variable in os.environ:
        if variable.startswith("FEDIT_"):
            monkeypatch.delenv(variable)


@pytest.fixture
def write(tmp_path):
    def written(text, name="silo.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


def test_paths_are_relative_to_the_file(write, tmp_path):
    (tmp_path / "records.jsonl").write_text("{}")
    config = load_silo_config(write(SILO))
    assert config.identity == tmp_path / "keys"
    assert str(config.state) == "/var/lib/fedit"
    assert config.data.path == str(tmp_path / "records.jsonl")
    assert config.data.columns.response == "answer"
    assert config.data.columns.instruction == "instruction"


def test_a_name_that_is_no_file_is_a_hub_name(write, tmp_path):
    config = load_silo_config(write(SILO))
    assert config.data.path == "records.jsonl"
    assert config.model == "base"
    (tmp_path / "base").mkdir()
    assert load_silo_config(write(SILO)).model == str(tmp_path / "base")
    dotted = load_silo_config(write(SILO.replace("model: base", "model: ./other")))
    assert dotted.model == str(tmp_path / "other")


def test_the_device_and_form_of_the_base_model(write, monkeypatch):
    plain = load_silo_config(write(SILO))
    assert (plain.device, plain.precision, plain.quantization) == (
        "cpu",
        "float32",
        "none",
    )
    path = write(SILO + "device: auto\nprecision: bfloat16\nquantization: int8\n")
    chosen = load_silo_config(path)
    assert (chosen.device, chosen.precision) == ("auto", "bfloat16")
    assert chosen.quantization == "int8"
    with pytest.raises(ConfigError, match=r"silo\.yaml line \d+: .*'precision'"):
        load_silo_config(write(SILO + "precision: float16\n"))


def test_a_job_is_one_process_unless_torchrun_says_more(write):
    assert load_silo_config(write(SILO)).torchrun.ranks == 1
    two_hosts = (
        "torchrun:\n  processes: 8\n  hosts: 2\n  endpoint: 10.7.0.1:29400\n"
        "  shard: true\n"
    )
    chosen = load_silo_config(write(SILO + two_hosts)).torchrun
    assert (chosen.ranks, chosen.shard, chosen.patience_seconds) == (16, True, 1800)


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("hosts: 2", "two hosts or more need an endpoint"),
        ("endpoint: 10.7.0.1:29400", "two hosts or more need an endpoint"),
        ("shard: true", "shard needs two processes or more"),
        ("processes: 0", "processes"),
    ],
)
def test_processes_that_couldnt_meet_are_refused(write, section, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        load_silo_config(write(SILO + "torchrun:\n  " + section))
    assert "silo.yaml line 1" in str(caught.value)


def test_options_beat_the_environment_beats_the_file(write, monkeypatch):
    path = write(SILO + "threads: 2\n")
    assert load_silo_config(path).threads == 2
    monkeypatch.setenv("FEDIT_THREADS", "3")
    monkeypatch.setenv("FEDIT_DATA__COLUMNS__RESPONSE", "text")
    monkeypatch.setenv("FEDIT_AGGREGATOR__ADDRESS", "localhost:1")
    config = load_silo_config(path)
    assert (config.threads, config.data.columns.response) == (3, "text")
    assert config.data.columns.instruction == "instruction"
    assert config.aggregator.address == "localhost:1"
    assert load_silo_config(path, {"threads": 4}).threads == 4


def test_lists_from_the_environment(write, monkeypatch):
    text = (
        "identity: keys\nstate: s\ncharter: c\napprovals: a\ninitial_state: i\n"
        "listen: 0.0.0.0:7443\n"
    )
    monkeypatch.setenv("FEDIT_HOSTNAMES", "[hub.example.org, hub]")
    # A variable of the other role says nothing here.
    monkeypatch.setenv("FEDIT_DATA__PATH", "x.jsonl")
    config = load_aggregator_config(write(text))
    assert config.hostnames == ("hub.example.org", "hub")
    monkeypatch.setenv("FEDIT_HOSTNAMES", "[hub")
    with pytest.raises(ConfigError, match=r"^FEDIT_HOSTNAMES isn't a YAML list"):
        load_aggregator_config(write(text))


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "FEDIT_THREDS",
            "2",
            "variable FEDIT_THREDS is unknown .did you mean FEDIT_THR",
        ),
        (
            "FEDIT_THREADS",
            "two",
            r"^FEDIT_THREADS: the field 'threads' should be a whole number, not 'two'$",
        ),
        (
            "FEDIT_DATA__PTH",
            "x",
            r"^FEDIT_DATA__PTH: .*'data.pth' is unknown; .*'path'\?",
        ),
    ],
)
def test_bad_variables_are_named(write, monkeypatch, variable, value, sentence):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=sentence):
        load_silo_config(write(SILO))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("charter:", "chart:", r"silo\.yaml line 4: .*'chart' is unknown; .*'charter'\?"),
        ("response: answer", "respone: answer",
         r"line 11: the key 'data\.columns\.respone' is unknown; did you mean 'response'"),
        ("path: records.jsonl", "split: train", r"line 8: the key 'data\.path' is missing"),
        ("model: base\n", "", r"silo\.yaml.*: the key 'model' is missing"),
        ("name: clinic-a", "name: Clinic A",
         r"line 1: the field 'name' should be at most 63 lower-case .* not 'Clinic A'$"),
        ("model: base", "model: [base]", r"line 7: the field 'model' should be a text$"),
        ("model: base", "model: base\nmodel: other", r"line 8: the key 'model' is there tw"),
        ("model: base", "model: base\nthreads: 0", r"line 8: .*'threads' .*greater than"),
        ("model: base", "model: base\naggregator: {address: here}",
         r"line 8: .*'aggregator\.address' should be an address like .*, not 'here'$"),
        ("model: base", "model: {base", r"silo\.yaml line \d+: "),
        ("model: base", "model: base\nlog_level: loud", r"line 8: .*'log_level' .*'debug'"),
        # What YAML makes of a text without quotes.
        ("name: clinic-a", "name: no",
         r"line 1: .*'name' should be a text, and YAML reads no as false: write it in q"),
        ("name: clinic-a", "name: 007", r"YAML reads 007 as the number 7: write it in qu"),
        ("name: clinic-a", "name: 2024-01-01", r"YAML reads 2024-01-01 as a date: write"),
        ("model: base", "model: base\nno: 1", r"line 8: YAML reads the key no as someth"),
        ("model: base", "model: base\n7: 1", r"line 8: YAML reads the key 7 as somethin"),
        # Units, near misses of a choice, another branch of a union.
        ("model: base", "model: base\nthreads: 4 cores",
         r"line 8: .*'threads' should be a whole number, not '4 cores'$"),
        ("model: base", "model: base\ntoken_budget: 2k",
         r"line 8: .*'token_budget' should be 'auto' or a whole number, not '2k'$"),
        ("model: base", "model: base\ndevice: CUDA", r"'auto'; did you mean 'cuda'\?$"),
        ("model: base", "model: base\nlog_level: warn", r"; did you mean 'warning'\?$"),
        ("model: base", "model: base\ndevice: gpu", r"or 'auto', not 'gpu'$"),
        ("model: base", "model: base\ncheckpointing: maybe", r"be true or false, not 'ma"),
        # A key in the wrong section, a section that is none, an empty one.
        ("model: base", "model: base\naddress: a:1",
         r"line 8: the key 'address' is unknown here; it belongs under 'aggregator'$"),
        ("model: base", "model: base\nperson: id", r"it belongs under 'data\.columns'$"),
        ("model: base", "model: base\naggregator: hub:1",
         r"line 8: .*'aggregator' should be a section of keys, not 'hub:1'$"),
        ("model: base", "model: base\naggregator:", r"a section of keys, and is empty$"),
        ("model: base", "model:", r"line 7: .*'model' should be a text, and is empty$"),
        ("model: base", "model: base\nRounds: 1", r"line 8: the key 'Rounds' is unknown$"),
        ("model: base", "model: base\nThreads: 1", r"unknown; did you mean 'threads'\?$"),
        # YAML that isn't.
        ("  path:", "\tpath:", r"line 9: there is a tab, and YAML indents with spaces on"),
        ("model: base", "model base", r"line 7: could not find expected ':'"),
        ("model: base", "model: 'base", r"line 7: found unexpected end of stream"),
        ("model: base", "model: *base", r"line 7: found undefined alias"),
    ],
)  # fmt: skip
def test_one_sentence_with_file_line_and_field(write, old, new, sentence):
    assert old in SILO
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_silo_config(write(SILO.replace(old, new)))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n- b\n", "doesn't hold keys"),
        (
            b"a: 1\nname: \xff\xfe\n",
            "yaml line 2 isn't UTF-8 text: byte 11 can't be dec",
        ),
        ("name: caf\xe9".encode("latin-1"), "line 1 isn't UTF-8 text"),
        (b"name: \x01\n", "holds the character #x0001"),
        (b"name: !!python/object/apply:os.system [id]\n", "line 1"),
        (b"? [a, b]\n: 1\n", "silo.yaml"),
    ],
)
def test_what_is_no_configuration(tmp_path, content, sentence):
    path = tmp_path / "silo.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_silo_config(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml can't be read: No such file"):
        load_silo_config(tmp_path / "nowhere.yaml")


def test_a_plan(write, tmp_path):
    plan = load_plan(write(PLAN, "plan.yaml"))
    assert plan.base_model == str(tmp_path / "base")
    assert plan.dp.delta == 1e-6
    assert plan.dp.expected_batch == {"clinic-a": 64, "clinic-b": 128}
    assert (plan.lora.rank, plan.dp.spare_charges, plan.weights) == (8, 1, "equal")
    assert plan.predecessor is None


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "learning_rate",
            "lerning_rate",
            r"line 8: .*'tuning\.lerning_rate'.*'learning_r",
        ),
        (
            "clinic-a: 64",
            "no: 64",
            "line 13: YAML reads the key no as something else than a text",
        ),
        (
            "clinic-a: 64",
            "clinic-a: 64 records",
            r"a: .*, not '64 records'|clinic-a' sh",
        ),
        (
            "hub.example.org:7443",
            "hub.example.org",
            r"line 3: .* hub.example.org:7443, n",
        ),
        ("2027-01-31", "31.1.2027", r"like 2027-12-31, not '31\.1\.2027'$"),
        (
            "clinic-b: 128",
            "clinic-b: 0",
            r"line 13: the field 'dp\.expected_batch\.clinic",
        ),
        ("delta: 1e-6", "delta: 2", r"line 12: the field 'dp\.delta' .*less than 1"),
        (
            "rounds: 3",
            "rounds: many",
            r"line 5: .*'rounds' should be a whole number, not 'many'$",
        ),
        ("2027-01-31", "soon", r"line 6: the field 'expires'"),
    ],
)
def test_a_bad_plan(write, old, new, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_plan(write(PLAN.replace(old, new), "plan.yaml"))


def test_a_policy(write):
    policy = load_policy(write("epsilon: 8\ndelta: 1e-6\n", "policy.yaml"))
    assert (policy.epsilon, policy.delta, policy.minimum_silos) == (8.0, 1e-6, 3)
    with pytest.raises(ConfigError, match=r"line 2: .*'epsilom' is unknown.*'epsilon'"):
        load_policy(write("delta: 1e-6\nepsilom: 8\n", "policy.yaml"))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("hours: {from: 20:00, until: '6:00', zone: UTC}", "'hours.from' must be a time in q"),
        ("hours: {from: '8 pm', until: '06:00', zone: UTC}", "'hours.from' .*, not '8 pm'$"),
        ("windows:\n  - {days: 90, epsilo: 4}", "line 4: .*'windows.0.epsilo'.*'epsilon'"),
        ("windows:\n  - {days: 90}", "line 4: the key 'windows.0.epsilon' is missing"),
        ("windows: {days: 90, epsilon: 4}", "line 3: .*'windows' should be a list$"),
        ("epsilon_per_run: 4,5", "'epsilon_per_run' should be a number, not '4,5'$"),
        ("allowed_base_models: all", "should be 'any' or a list, not 'all'$"),
        ("allowed_base_models: [abc]", "models.0' should be a digest of 64 hex.*, not 'ab"),
        ("epsilon: 4", "line 3: the key 'epsilon' is there twice"),
    ],
)  # fmt: skip
def test_a_bad_policy(write, line, sentence):
    text = f"epsilon: 8\ndelta: 1e-6\n{line}\n"
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_policy(write(text, "policy.yaml"))
    assert "\n" not in str(caught.value)


def test_a_policy_ignores_the_environment(write, monkeypatch):
    monkeypatch.setenv("FEDIT_EPSILON", "100")
    policy = load_policy(write("epsilon: 8\ndelta: 1e-6\n", "policy.yaml"))
    assert policy.epsilon == 8


EXAMPLES = sorted((Path(__file__).parents[1] / "silos").glob("*/silo.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_example_silos_are_valid(path):
    config = load_silo_config(path)
    assert config.name == path.parent.name
    assert load_policy(config.policy).epsilon


def test_a_simulation(write, tmp_path):
    text = (
        "base_model: ./base\noutput: out\nrounds: 2\n"
        "tuning: {learning_rate: 1e-3, local_steps: 2}\n"
        "dp: {kind: none, expected_batch: 8}\n"
        "data:\n  a: {path: ./a.jsonl}\n  b: {path: ./b.jsonl, columns: {input: null}}\n"
    )
    config = load_simulation(write(text, "simulation.yaml"))
    assert config.data["a"].path == str(tmp_path / "a.jsonl")
    assert config.data["b"].columns.input is None
    assert config.output == tmp_path / "out"
    assert config.participation == 1.0
    some = load_simulation(write(f"{text}participation: 0.5\n", "simulation.yaml"))
    assert some.participation == 0.5
    with pytest.raises(ConfigError, match=r"line 9: .*'participation'.*less than"):
        load_simulation(write(f"{text}participation: 3\n", "simulation.yaml"))
    bad = text.replace("columns: {input", "columns: {inpt")
    with pytest.raises(
        ConfigError, match=r"line 8: .*'data\.b\.columns\.inpt'.*'input'"
    ):
        load_simulation(write(bad, "simulation.yaml"))
