from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedit_secure.config import load_silo_config
from fedit_secure.federation.approval import Approval, highest_approved, verify_approval
from fedit_secure.federation.charter import Charter
from fedit_secure.privacy.ledger import Ledger, Opened, Released
from fedit_secure.storage.journal import Journal

ME = "clinic-a"
SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture
def silo(federation):
    return federation / ME


@pytest.fixture
def charter(federation):
    return Charter.load(federation / "charter.json")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def keep_ledger(silo, charter, rounds, released=0, cap=8.0):
    """Writes the ledger of a silo that has charged some rounds of a charter."""
    own = charter.digest().hex()
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity="ab" * 32,
            population=ME,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=cap,
            filter_order=3.0,
            fingerprints="cd" * 32,
            software="test",
        )
    )
    for number in range(1, rounds + 1):
        ledger = ledger.reserve(
            charter.plan_for(ME), run=charter.run, round=number, charter=own,
            state_digest="00" * 32, weight=1,
        )  # fmt: skip
    for number in range(1, released + 1):
        ledger = ledger.append(
            Released(
                charter=own,
                round=number,
                release_digest="11" * 32,
                state_digest="22" * 32,
            )
        )
    state = silo / "state"
    state.mkdir(exist_ok=True)
    with Journal.open(state / "journal.sqlite", create=True) as journal:
        journal.commit(population=ME, expected_sequence=0, entries=ledger.entries)
    return ledger


# ------------------------------------------------------------------------------- approve


def approve(fedit, silo, *options):
    return fedit("charter", "approve", silo / "silo.yaml", "--yes", *options)


def test_approve_signs_and_remembers(fedit, silo, charter):
    result = approve(fedit, silo, "--format", "json")
    assert result.status == 0, result.err
    assert result.json["words"] == " ".join(charter.words())
    assert 7.9 < result.json["run_costs_epsilon"] <= 8
    assert result.json["spent_epsilon"] == 0
    approval = Approval.load(silo / "clinic-a.approval")
    verify_approval(charter, approval)
    last = highest_approved(silo / "state", "north")
    assert (last.epoch, last.digest) == (1, charter.digest().hex())


def test_approve_again_writes_the_same(fedit, silo):
    assert approve(fedit, silo).status == 0
    first = (silo / "clinic-a.approval").read_bytes()
    assert approve(fedit, silo).status == 0
    assert (silo / "clinic-a.approval").read_bytes() == first


def test_approve_asks_and_takes_no_for_an_answer(fedit, silo, monkeypatch, snapshot):
    import io

    before = snapshot(silo)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    result = fedit("charter", "approve", silo / "silo.yaml")
    assert result.status == 130
    assert snapshot(silo) == before
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert fedit("charter", "approve", silo / "silo.yaml").status == 0
    assert (silo / "clinic-a.approval").exists()


REFUSALS = {
    "delta too large": (
        "charter", '"delta": 1e-06', '"delta": 0.001', 6, "delta 0.001 is too large"),
    "another records count": (
        "records", None, None, 6, "400 records, and its data has 399"),
    "budget too small": (
        "policy.yaml", "epsilon: 8 ", "epsilon: 2 ", 7, "0 of the cap of 2 is spent"),
    "policy delta": (
        "policy.yaml", "delta: 1e-6", "delta: 1e-7", 6, "policy allows at most 1e-07"),
    "too few silos": (
        "policy.yaml", "minimum_silos: 3", "minimum_silos: 4", 6, "asks for at least 4"),
    "a base model that isn't allowed": (
        "policy.yaml", "allowed_base_models: any", f"allowed_base_models: [{'ab' * 32}]",
        6, "isn't among this silo's allowed_base_models"),
    "record count not to be told": (
        "policy.yaml", "tell_record_count: true", "tell_record_count: false", 6,
        "doesn't set tell_record_count"),
    "unknown key in the policy": (
        "policy.yaml", "minimum_silos", "minimum_silo", 4,
        "line 8: the key 'minimum_silo' is unknown; did you mean 'minimum_silos'?"),
    "missing key in silo.yaml": (
        "silo.yaml", "policy: policy.yaml\n", "", 4, "the key 'policy' is missing"),
    "another silo's name": (
        "silo.yaml", "name: clinic-a", "name: clinic-b", 4, "is that of silo 'clinic-a'"),
    "no data": ("silo.yaml", "path: records.jsonl", "path: ./none.jsonl", 4, "none.jsonl"),
    "own card altered": (
        "charter", '"population": "clinic-a"', '"population": "others"', 6,
        "isn't this silo's own card"),
    "unknown silo": (
        "charter", '"name": "clinic-a"', '"name": "clinic-z"', 6,
        "silo 'clinic-a' isn't in the roster"),
    "weaker noise than named": (
        "charter", '"epsilon": 8.0', '"epsilon": 7.0', 6, "names epsilon 7"),
    "an expired charter": (
        "charter", '"expires": "20', '"expires": "19', 6, "expired on 19"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_may_not_be_approved(fedit, silo, snapshot, case):
    where, old, new, status, sentence = REFUSALS[case]
    if where == "charter":
        edit(silo.parent / "charter.json", old, new)
    elif where == "records":
        lines = (silo / "records.jsonl").read_text().splitlines(keepends=True)
        (silo / "records.jsonl").write_text("".join(lines[:-1]))
    else:
        edit(silo / where, old, new)
    before = snapshot(silo)
    result = approve(fedit, silo)
    assert result.status == status, result.err
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert snapshot(silo) == before


def test_a_missing_charter(fedit, silo, snapshot):
    (silo.parent / "charter.json").unlink()
    before = snapshot(silo)
    result = approve(fedit, silo)
    assert result.status == 4
    assert "charter.json can't be read" in result.err
    assert snapshot(silo) == before


def test_another_charter_of_the_same_epoch_is_refused(fedit, silo, snapshot):
    assert approve(fedit, silo).status == 0
    edit(silo.parent / "charter.json", '"run": "first"', '"run": "other"')
    before = snapshot(silo)
    result = approve(fedit, silo)
    assert result.status == 6
    assert "has approved another charter for epoch 1" in result.err
    assert snapshot(silo) == before


def test_what_is_spent_counts(fedit, silo, charter):
    keep_ledger(silo, charter, 3, 3)
    facts = approve(fedit, silo, "--format", "json").json
    assert 0 < facts["spent_epsilon"] < facts["after_the_run_epsilon"] <= 8
    # A run of its own, after a whole one: eight isn't enough for two.
    edit(silo.parent / "charter.json", '"run": "first"', '"run": "other"')
    edit(silo.parent / "charter.json", '"north"', '"south"')
    result = approve(fedit, silo)
    assert result.status == 7
    assert "would bring the records of 'clinic-a' to epsilon" in result.err


def test_a_lost_ledger_is_not_forgotten(fedit, silo, charter):
    keep_ledger(silo, charter, 1)
    (silo / "state" / "journal.made").write_text("made")
    (silo / "state" / "journal.sqlite").unlink()
    for arguments in (
        ("charter", "approve", silo / "silo.yaml", "--yes"),
        ("budget", "show", silo / "silo.yaml"),
        ("silo", "status", silo / "silo.yaml"),
    ):
        result = fedit(*arguments)
        assert result.status == 10
        assert "is missing; put the aggregator's copy of it back" in result.err


def test_approve_with_an_unwritable_approval_has_remembered_the_epoch(fedit, silo):
    edit(silo / "silo.yaml", "approval: clinic-a", "approval: nowhere/clinic-a")
    result = approve(fedit, silo)
    assert result.status == 1
    assert "can't be written" in result.err
    assert highest_approved(silo / "state", "north").epoch == 1


# ---------------------------------------------------------------------- budget and status


def test_budget_before_the_first_run(fedit, silo):
    facts = fedit("budget", "show", silo / "silo.yaml", "--format", "json").json
    assert facts["epsilon_spent"] == 0
    assert facts["epsilon_left"] == 8
    assert facts["charges"] == []


def test_budget_equals_the_ledgers_recomputation(fedit, silo, charter):
    ledger = keep_ledger(silo, charter, 2, 1)
    facts = fedit("budget", "show", silo / "silo.yaml", "--format", "json").json
    assert facts["epsilon_spent"] == pytest.approx(ledger.spent().published, abs=1e-6)
    assert facts["epsilon_left"] == pytest.approx(8 - facts["epsilon_spent"])
    (row,) = facts["charges"]
    assert (row["run"], row["charged"], row["planned"], row["released"]) == (
        "first", 2, 4, 1,
    )  # fmt: skip
    assert row["epsilon"] == pytest.approx(facts["epsilon_spent"])
    assert facts["ledger_head"] == ledger.hash.hex()
    assert "clinic-a" in fedit("budget", "show", silo / "silo.yaml").out


def test_looking_changes_nothing(fedit, silo, charter, snapshot):
    keep_ledger(silo, charter, 1)
    before = snapshot(silo)
    for command in (("budget", "show"), ("silo", "status")):
        assert fedit(*command, silo / "silo.yaml").status == 0
    assert snapshot(silo) == before


def test_a_running_silo_can_be_looked_at(fedit, silo, charter):
    keep_ledger(silo, charter, 1)
    with Journal.open(silo / "state" / "journal.sqlite"):
        assert fedit("budget", "show", silo / "silo.yaml").status == 0


def test_a_damaged_ledger_is_named(fedit, silo, charter):
    keep_ledger(silo, charter, 1)
    path = silo / "state" / "journal.sqlite"
    data = bytearray(path.read_bytes())
    place = data.find(b'"kind":"intent"')
    data[place + 9] ^= 1
    path.write_bytes(bytes(data))
    result = fedit("budget", "show", silo / "silo.yaml")
    assert result.status == 1
    assert "damaged" in result.err
    assert result.err.count("\n") == 1


def test_status(fedit, silo, charter):
    facts = fedit("silo", "status", silo / "silo.yaml", "--format", "json").json
    assert (facts["federation"], facts["approved"]) == ("north", False)
    approve(fedit, silo)
    keep_ledger(silo, charter, 3, 2)
    facts = fedit("silo", "status", silo / "silo.yaml", "--format", "json").json
    assert facts["approved"] is True
    assert (facts["rounds_charged"], facts["rounds_released"]) == (3, 2)
    (silo.parent / "charter.json").unlink()
    facts = fedit("silo", "status", silo / "silo.yaml", "--format", "json").json
    assert facts["federation"] is None


def test_aggregator_status(fedit, federation, charter):
    hub = federation / "hub"
    config = hub / "aggregator.yaml"
    assert fedit("aggregator", "status", config).status == 0
    edit(config, "charter: charter.json", "charter: ../charter.json")
    facts = fedit("aggregator", "status", config, "--format", "json").json
    assert len(facts["approvals_missing"]) == 4
    approve(fedit, federation / ME)
    (hub / "approvals").mkdir()
    approval = federation / ME / "clinic-a.approval"
    (hub / "approvals" / "a.approval").write_bytes(approval.read_bytes())
    facts = fedit("aggregator", "status", config, "--format", "json").json
    assert facts["approvals_missing"] == ["clinic-b", "clinic-c", "clinic-d"]
    assert (facts["rounds"], facts["rounds_certified"]) == (3, 0)
    assert facts["round_drawn_for"] is None  # for all of them


# ---------------------------------------------------------------------------------- data


@pytest.fixture
def bare(silo):
    """A silo that has no charter yet, so nothing is tokenized."""
    (silo.parent / "charter.json").unlink()
    return silo


def check(fedit, silo):
    return fedit("data", "check", silo / "silo.yaml", "--format", "json")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no records"),
        ('{"instruction": "a"}\n', "no column 'response'"),
        (
            '{"instruction": "a", "response": ""}\n',
            "line 1: the column 'response' is empty",
        ),
        ('{"instruction": "a", "response": "b"}\n{"instr', "line 2: isn't valid JSON"),
    ],
)
def test_bad_records(fedit, bare, text, sentence):
    (bare / "records.jsonl").write_text(text)
    result = check(fedit, bare)
    assert (result.status, result.out) == (4, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1


def test_data_check_counts_tokens(fedit, silo):
    model = SHARED / "models" / "public-base-2.5m"
    if not model.is_dir():
        pytest.skip("the shared base model isn't here")
    pytest.importorskip("transformers", reason="counting tokens takes a tokenizer")
    edit(silo / "silo.yaml", "model: model", f"model: {model.resolve()}")
    long = {"instruction": "word " * 500, "response": "yes"}
    with (silo / "records.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    facts = check(fedit, silo).json
    assert facts["max_tokens"] == 64
    assert facts["prompts_cut"] >= 1
    # The cut keeps room for the response, even behind five hundred words.
    assert facts["records_without_response_tokens"] == 0


# --------------------------------------------------------------------------------- serve


def test_serve_refuses_a_charter_that_was_not_approved(fedit, silo):
    result = fedit("silo", "serve", silo / "silo.yaml")
    assert result.status == 6
    assert "has approved no charter of 'north'" in result.err


def test_options_beat_the_file(silo):
    config = load_silo_config(silo / "silo.yaml", {"threads": 1})
    assert config.threads == 1
