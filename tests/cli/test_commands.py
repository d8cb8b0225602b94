"""Every command, walked through as Typer knows them: help, formats, and keys of its JSON."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import pytest
import typer
from audit.forge import Evidence
from audit.honest_runs import a_plain_run
from audit.tampered_papers import a_claim_removed_from_the_bundle
from named_tests import file_of

from fedit_secure.cli.main import app
from fedit_secure.demo.baselines import Row, Sample
from fedit_secure.demo.display import print_summary
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState
from fedit_secure.simulation.results import RoundRow

CONFIG = "clinic-a/silo.yaml"

# Keys that programs may rely on: others may be added, none of these may go.
KEYS = {
    ("version",): "cryptography dp-accounting fedit-secure numpy opacus torch",
    ("silo", "init", "x", "--contact", "y"): "card files name",
    ("aggregator", "init", "x", "--contact", "y"): "card files name",
    ("silo", "status", CONFIG): (
        "approved card_expires delta epoch epsilon_cap epsilon_left epsilon_spent "
        "federation identity ledger_entries name population rounds rounds_charged "
        "rounds_released rounds_without_release"
    ),
    ("aggregator", "status", "hub/aggregator.yaml"): (
        "adapter approvals_missing card_expires epoch federation identity listen name "
        "round_drawn_for rounds rounds_certified run_folder"
    ),
    ("silo", "encrypt", CONFIG, "--remove"): "encrypted identity name passphrase_file",
    ("aggregator", "encrypt", "hub/aggregator.yaml", "--remove"): (
        "encrypted identity name passphrase_file"
    ),
    ("silo", "rotate", CONFIG): "card card_expires identity name",
    ("aggregator", "rotate", "hub/aggregator.yaml"): "card card_expires identity name",
    ("silo", "drain", CONFIG): "ended process state",
    ("aggregator", "drain", "hub/aggregator.yaml"): "ended process state",
    ("charter", "draft", "plan.yaml", "cards", "-o", "new.json"): (
        "charter digest initial_state words"
    ),
    ("charter", "show", "charter.json"): (
        "adapter aggregator base_model base_model_digest digest epoch expires federation "
        "predecessor privacy roster run secure_sum template tuning "
        "what_the_epsilon_hides words"
    ),
    ("charter", "approve", CONFIG, "--yes"): (
        "after_the_run_epsilon base_model caps delta digest epoch expires federation "
        "policy_epsilon privacy records rounds run run_costs_epsilon silos spent_epsilon "
        "unit what_the_epsilon_hides words"
    ),
    ("data", "check", CONFIG): (
        "categories charter_unit duplicates exact_duplicates "
        "exact_duplicates_across_persons largest_delta_per_person "
        "largest_delta_per_record longest_characters max_tokens "
        "most_times_a_record_occurs persons persons_by_records persons_with_more "
        "prompts_cut records records_cut records_left_out "
        "records_per_person_90_percent records_per_person_at_most "
        "records_per_person_median records_per_person_most records_with_input "
        "records_without_a_person records_without_response_tokens responses_cut "
        "share_of_tokens_lost"
    ),
    ("data", "split", "clinic-a/records.jsonl", "-o", "parts", "--scheme", "iid"): (
        "folder held_out rows scheme seed silos"
    ),
    ("budget", "show", CONFIG): (
        "caps charges delta epsilon_cap epsilon_left epsilon_spent ledger_entries "
        "population"
    ),
    ("budget", "history", CONFIG): "delta history population",
    ("config", "show", CONFIG): "file kind settings",
    ("doctor", CONFIG, "--quick", "--offline"): (
        "fail file findings pass role skip warn"
    ),
    ("audit", "verify", "bundle"): "bundle charter verdict verdicts words",
    ("audit", "report", "bundle", "-o", "report.html"): (
        "bundle charter report verdict verdicts words"
    ),
}
# Commands whose JSON needs more than a drafted federation, and the test that reads it.
ELSEWHERE = {
    "aggregator serve": "tests/integration/test_daemons.py::"
    "test_daemons_tune_and_the_aggregator_never_imports_torch",
    "silo serve": "tests/integration/test_daemons.py::"
    "test_daemons_tune_and_the_aggregator_never_imports_torch",
    "charter verify": "tests/cli/test_charter_command.py::test_verify",
    "budget set": "tests/cli/test_budget_set.py::test_the_change_is_one_json_object",
    "budget restore": "tests/cli/test_budget_restore.py::test_a_copy_is_restored",
    "budget inherit": "tests/cli/test_budget_restore.py::"
    "test_inherit_takes_over_what_is_shared",
    "audit export": "tests/cli/test_audit_export.py::"
    "test_it_writes_one_file_and_says_what_is_in_it",
    "audit canary": "tests/cli/test_audit_canary.py::"
    "test_a_detector_that_flags_ends_with_status_9",
    "audit leakage": "tests/cli/test_audit_leakage.py::"
    "test_what_is_known_by_heart_is_found_said_and_kept",
    "run list": "tests/cli/test_run_command.py::test_an_aggregators_runs_are_listed",
    "run stop": "tests/cli/test_run_command.py::"
    "test_a_stop_is_an_order_that_lasts_until_it_is_withdrawn",
    "run watch": "tests/cli/test_run_command.py::test_json_is_the_snapshot",
    "chat": "tests/cli/test_chat_command.py::test_once_prints_the_answer_alone",
    "evaluate": "tests/cli/test_evaluate_command.py::"
    "test_base_and_adapter_side_by_side",
    "judge": "tests/cli/test_judge_command.py::test_a_whole_trial_and_its_resumption",
    "merge": "tests/cli/test_merge_command.py::"
    "test_a_runs_adapter_is_merged_into_the_charters_base",
    "silo personal": "tests/integration/test_own_b_epochs.py::"
    "test_it_goes_on_from_epoch_to_epoch_and_a_lost_one_needs_a_word",
    "simulate": "tests/cli/test_commands.py::test_what_a_simulation_came_to_is_json",
    "demo": "tests/cli/test_commands.py::test_the_summary_of_the_demo_is_json",
}
SIMULATION = """\
base_model: base
output: out
rounds: 1
max_tokens: 64
lora: {rank: 2, targets: [layers.3.mlp.down_proj]}
tuning: {learning_rate: 1e-3, local_steps: 1}
dp: {epsilon: 8, delta: 1e-6, expected_batch: 4}
data:
  clinic-a: {path: ./clinic-a/records.jsonl}
  clinic-b: {path: ./clinic-b/records.jsonl}
  clinic-c: {path: ./clinic-c/records.jsonl}
"""


def walked(command, path=()):
    """(path, command) of every command that isn't a group."""
    groups = getattr(command, "commands", None)
    if groups is None:
        yield path, command
        return
    for name, inner in groups.items():
        yield from walked(inner, (*path, name))


ROOT = typer.main.get_command(app)
COMMANDS = {" ".join(path): command for path, command in walked(ROOT)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_of_it_has_help(name):
    command = COMMANDS[name]
    assert command.help
    assert command.help.splitlines()[0].endswith(".")
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{name}: {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_a_table_or_json(name):
    (option,) = [p for p in COMMANDS[name].params if "--format" in p.opts]
    choices = [member.value for member in type(option.default)]
    assert choices[:2] == ["table", "json"]
    assert option.default.value == "table"


def test_every_group_has_help():
    for name, group in ROOT.commands.items():
        assert group.help, name


def test_the_json_of_every_command_is_read_by_a_test():
    here = {name for line in KEYS for name in COMMANDS if starts(line, name)}
    assert here.isdisjoint(ELSEWHERE)
    assert here | set(ELSEWHERE) == set(COMMANDS)
    for test in ELSEWHERE.values():
        file_of(test)


def starts(line, name):
    return line[: len(name.split())] == tuple(name.split())


def sealed(evidence, path):
    files = evidence.sealed() if isinstance(evidence, Evidence) else evidence
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


@pytest.fixture
def here(federation, monkeypatch):
    """A drafted federation as the current folder, with a folder of cards."""
    monkeypatch.chdir(federation)
    (federation / "cards").mkdir()
    for card in federation.glob("*/identity/*.card"):
        (federation / "cards" / card.name).write_bytes(card.read_bytes())
    for path in ("clinic-a/silo.yaml", "hub/aggregator.yaml"):
        text = (federation / path).read_text()
        text = text.replace("charter: charter.json", "charter: ../charter.json")
        (federation / path).write_text(text.replace("model: model", "model: ../base"))
    return federation


@pytest.mark.parametrize("line", KEYS, ids=lambda line: " ".join(line[:2]))
def test_json_has_the_keys_that_programs_rely_on(fedit, here, line):
    if "bundle" in line:
        sealed(a_plain_run(), here / "bundle")
    if "draft" in line:
        (here / "initial-state.bin").unlink()
    result = fedit(*line, "--format", "json")
    assert result.status == 0, result.err
    assert set(KEYS[line].split()) <= set(result.json)


def test_the_findings_of_an_audit_as_csv(fedit, tmp_path):
    sealed(a_claim_removed_from_the_bundle(), tmp_path / "bundle")
    result = fedit("audit", "verify", tmp_path / "bundle", "--format", "csv")
    assert result.status == 9
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert list(rows[0]) == ["claim", "result", "fault", "where", "what"]
    (missing,) = [row for row in rows if row["fault"] == "file-missing"]
    assert (missing["result"], missing["where"]) == ("fails", "claims/s1.claim")
    assert all(row["what"] for row in rows)
    assert len({row["claim"] for row in rows}) > 3


def test_what_a_simulation_came_to_is_json(fedit, here, monkeypatch):
    """Of a run that took no time; `simulate` itself is tested where it lives."""
    charter = Charter.load(here / "charter.json")

    def simulated(sources, plan, **options):
        assert sorted(sources) == ["clinic-a", "clinic-b", "clinic-c"]
        assert (plan["rounds"], plan["participation"]) == (1, 1.0)
        state = GridState.from_bytes((here / "initial-state.bin").read_bytes())
        rows = [
            RoundRow(1, row.name, row.units, True, 1.5, 99, None, None, None)
            for row in charter.roster
        ]
        return SimpleNamespace(
            folder=options["folder"],
            charter=charter,
            state=state,
            rows=rows,
            columns=(
                "round",
                "silo",
                "units",
                "in_sum",
                "epsilon",
                "upload_bytes",
                "nll",
            ),
            personal={},
        )

    monkeypatch.setattr("fedit_secure.simulation.run.simulate", simulated)
    (here / "simulation.yaml").write_text(SIMULATION)
    result = fedit("simulate", "simulation.yaml", "--format", "json")
    assert result.status == 0, result.err
    facts = {"adapter", "folder", "rounds", "silos_by_round", "state", "unit"}
    assert set(result.json) == facts
    first = {
        "round": 1,
        "silo": "clinic-a",
        "units": 400,
        "in_sum": True,
        "epsilon": 1.5,
        "upload_bytes": 99,
        "nll": None,
    }
    assert result.json["silos_by_round"][0] == first
    told = fedit("simulate", "simulation.yaml", "--format", "csv").out
    (row, *_) = csv.DictReader(io.StringIO(told))
    assert row == {k: "" if v is None else str(v) for k, v in first.items()}


def test_a_simulation_that_draws_too_few_silos_names_the_line(fedit, here):
    text = SIMULATION.replace("rounds: 1\n", "rounds: 1\nparticipation: 0.5\n")
    (here / "simulation.yaml").write_text(text)
    result = fedit("simulate", "simulation.yaml")
    assert result.status == 4
    assert (
        "simulation.yaml line 4: the plan's 'participation' draws 2 of 3" in result.err
    )


def test_the_summary_of_the_demo_is_json(capsys):
    facts = {"folder": "out", "rounds": 3}
    rows = [Row("base model", False, 7.3, 0.08)]
    print_summary(facts, rows, [Sample("Ask", "x", "y", "z")], as_json=True)
    read = json.loads(capsys.readouterr().out)
    assert facts.items() <= read.items()
    assert set(read) - set(facts) == {"table", "samples"}
