"""`fedit doctor` for a silo: each check when all is well, and when it isn't."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
from collections import namedtuple
from datetime import UTC, datetime, timedelta

import pytest

from fedit_secure.cli.diagnosis import machine, model
from fedit_secure.cli.diagnosis.checks import Case, Check, Warn, exit_status, go_through
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.identity import create_identity
from fedit_secure.tuning.trial_job import STEPS

CHECKS = (
    "python", "packages", "configuration", "identity", "charter", "certificates",
    "permissions", "clock", "disk", "processes", "endpoint", "policy", "approval", "ledger",
    "own-b", "epsilon", "data", "admission", "address", "aggregator", "accepted",
    "base-model", *STEPS,
)  # fmt: skip


class Report:
    def __init__(self, result):
        self.status, self.err = result.status, result.err
        self.facts = result.json
        self.rows = {row["check"]: row for row in self.facts["findings"]}

    def __getitem__(self, check):
        return self.rows[check]["result"]

    def found(self, check):
        return self.rows[check]["found"]

    def fix(self, check):
        return self.rows[check]["fix"]

    def failures(self):
        return [name for name, row in self.rows.items() if row["result"] == "FAIL"]


@pytest.fixture
def silo(federation):
    folder = federation / "clinic-a"
    (folder / "records.jsonl").chmod(0o600)
    edit(folder / "silo.yaml", "model: model", "model: ../base")
    return folder


@pytest.fixture
def doctor(fedit, silo):
    def run(*options):
        options = options or ("--offline", "--quick")
        result = fedit("doctor", silo / "silo.yaml", *options, "--format", "json")
        assert result.out, result.err
        return Report(result)

    return run


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ----------------------------------------------------------------------------- all is well


def test_all_is_well_but_for_the_network(doctor, silo, fedit, snapshot):
    assert fedit("charter", "approve", silo / "silo.yaml", "--yes").status == 0
    before = snapshot(silo)
    report = doctor("--offline")
    assert report.status == 0
    assert {name: report[name] for name in CHECKS} == {
        name: "SKIP" if name in ("address", "aggregator", "accepted") else "PASS"
        for name in CHECKS
    }
    assert tuple(report.rows) == CHECKS
    assert report.facts["pass"] == len(CHECKS) - 3
    assert "the charter names" in report.found("base-model")
    assert "1 adapted layers" in report.found("gradients")
    assert "one DP-SGD step on 8 made-up records" in report.found("dry-step")
    assert snapshot(silo) == before  # it neither charged nor wrote anything


def test_before_there_is_a_charter(doctor, silo):
    (silo.parent / "charter.json").unlink()
    edit(silo / "silo.yaml", "model: ../base", "model: ../base\ntoken_budget: 256")
    report = doctor("--offline")
    assert (report.status, report.failures()) == (0, [])
    assert report["charter"] == "SKIP"
    assert report.fix("charter") == "Get it from the coordinator, and put it there."
    assert report.found("admission").startswith("it needs charter")
    for name in ("ledger", "epsilon", "data", "base-model", *STEPS):
        assert report[name] == "PASS", report.found(name)
    assert "28 adapted layers" in report.found("gradients")


def test_a_base_model_that_is_split_is_left_to_a_round(doctor, silo):
    split = "model: ../base\ntorchrun: {processes: 2, shard: true}"
    edit(silo / "silo.yaml", "model: ../base", split)
    report = doctor("--offline")
    assert report.failures() == []
    assert (report["torch"], report["model"], report["dry-step"]) == (
        "PASS",
        "SKIP",
        "SKIP",
    )
    assert "fits into no process whole" in report.found("model")


def test_quick_and_offline_look_neither_at_the_model_nor_at_the_network(doctor):
    report = doctor()
    for name in ("base-model", *STEPS):
        assert (report[name], report.found(name)) == ("SKIP", "not looked at (--quick)")
    for name in ("address", "aggregator", "accepted"):
        assert report.found(name) == "not looked at (--offline)"
    assert [line.split()[1] for line in report.err.splitlines()] == list(CHECKS)


def test_the_formats(fedit, silo):
    command = ("doctor", silo / "silo.yaml", "--offline", "--quick", "--format")
    rows = fedit(*command, "json").json["findings"]
    read = list(csv.DictReader(io.StringIO(fedit(*command, "csv").out)))
    assert (
        [row["check"] for row in read] == [row["check"] for row in rows] == list(CHECKS)
    )
    assert list(read[0]) == ["check", "result", "found", "fix"]
    assert "findings" in fedit(*command, "table").out


# ---------------------------------------------------------------------- each when it isn't


def yaml_has_an_unknown_key(silo):
    edit(silo / "silo.yaml", "model: ../base", "modell: ../base")


def anybody_reads_the_key(silo):
    (silo / "identity" / "identity.key").chmod(0o644)


def the_identity_is_anothers(silo):
    edit(silo / "silo.yaml", "name: clinic-a", "name: clinic-b")


def the_card_is_gone(silo):
    (silo / "identity" / "clinic-a.card").unlink()


def the_charter_has_expired(silo):
    edit(silo.parent / "charter.json", '"expires": "20', '"expires": "19')


def the_charter_has_another_card(silo):
    edit(silo.parent / "charter.json", '"population": "clinic-a"', '"population": "x"')


def the_charter_is_no_json(silo):
    (silo.parent / "charter.json").write_text("charter")


def the_policy_has_a_bad_value(silo):
    edit(silo / "policy.yaml", "epsilon: 8 ", "epsilon: eight ")


def the_budget_is_too_small(silo):
    edit(silo / "policy.yaml", "epsilon: 8 ", "epsilon: 2 ")


def the_policy_wants_persons(silo):
    edit(
        silo / "policy.yaml", "require_person_unit: false", "require_person_unit: true"
    )


def a_column_is_missing(silo):
    edit(silo / "silo.yaml", "response: response", "response: answer")


def a_record_is_lost(silo):
    path = silo / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def the_ledger_is_lost(silo):
    (silo / "state").mkdir(exist_ok=True)
    (silo / "state" / "journal.made").write_text("")


def the_ledger_is_no_database(silo):
    (silo / "state").mkdir(exist_ok=True)
    (silo / "state" / "journal.sqlite").write_bytes(bytes(4096))


BROKEN = {
    yaml_has_an_unknown_key: ("configuration", 4, "the key 'modell' is unknown"),
    anybody_reads_the_key: ("identity", 4, "run chmod 600 on it"),
    the_identity_is_anothers: ("identity", 4, "is that of 'clinic-a'"),
    the_card_is_gone: ("identity", 4, "0 cards instead of one"),
    the_charter_has_expired: ("charter", 6, "expired on 19"),
    the_charter_has_another_card: ("charter", 6, "isn't this silo's own card"),
    the_charter_is_no_json: ("charter", 4, "this is not JSON"),
    the_policy_has_a_bad_value: ("policy", 4, "should be a number, not 'eight'"),
    the_budget_is_too_small: ("admission", 7, "0 of the cap of 2 is spent"),
    the_policy_wants_persons: ("admission", 6, "(require_person_unit)"),
    a_column_is_missing: ("data", 4, "has no column 'answer'"),
    a_record_is_lost: ("admission", 6, "and its data has 399"),
    the_ledger_is_lost: ("ledger", 10, "journal.sqlite is missing"),
    the_ledger_is_no_database: ("ledger", 1, "journal"),
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_what_is_broken_fails_alone_with_its_fix_and_its_status(doctor, silo, breaks):
    check, status, sentence = BROKEN[breaks]
    breaks(silo)
    report = doctor()
    assert report.failures() == [check]
    assert sentence in report.found(check)
    assert report.fix(check).endswith(".")
    assert report.status == status
    # What doesn't build on it is looked at all the same.
    assert report["python"] == report["packages"] == "PASS"


def test_what_builds_on_a_failure_is_skipped_with_the_reason(doctor, silo):
    anybody_reads_the_key(silo)
    report = doctor()
    skipped = {
        name for name in CHECKS if "identity, which didn't" in report.found(name)
    }
    assert skipped == {"charter", "certificates", "clock", "ledger"}
    assert report["data"] == "PASS"


@pytest.mark.parametrize(
    ("days", "result", "sentence"),
    [(400, "PASS", "in 399 days"), (29, "WARN", "less than 30 days are left"),
     (6, "WARN", "less than 7 days are left"), (1, "WARN", "less than 1 day are left"),
     (-2, "FAIL", "the certificate of 'clinic-a' has expired")],
)  # fmt: skip
def test_certificates_warn_ahead(doctor, silo, days, result, sentence):
    (silo.parent / "charter.json").unlink()
    shutil.rmtree(silo / "identity")
    now = datetime.now(UTC)
    made = now - timedelta(days=1000)
    options = {"now": made, "population": "clinic-a", "valid_days": 1000 + days}
    create_identity(silo / "identity", "clinic-a", "silo", "x", **options)
    report = doctor()
    assert report["certificates"] == result, report.found("certificates")
    assert sentence in report.found("certificates")


def test_a_clock_before_the_keys_were_made(doctor, silo):
    (silo.parent / "charter.json").unlink()
    shutil.rmtree(silo / "identity")
    later = datetime.now(UTC) + timedelta(days=2)
    create_identity(silo / "identity", "clinic-a", "silo", "x", now=later)
    report = doctor()
    assert report.failures() == ["clock"]
    assert "before this party's keys were made" in report.found("clock")


def test_permissions_of_what_lies_around_the_keys(doctor, silo):
    (silo / "records.jsonl").chmod(0o644)
    (silo / "policy.yaml").chmod(0o666)
    report = doctor()
    assert (report.status, report["permissions"]) == (0, "WARN")
    assert f"others may read {silo / 'records.jsonl'}" in report.found("permissions")
    assert f"others may write to {silo / 'policy.yaml'}" in report.found("permissions")


@pytest.mark.parametrize(
    ("free", "result"), [(1 << 40, "PASS"), (1 << 29, "WARN"), (1 << 19, "FAIL")]
)
def test_the_disk(doctor, monkeypatch, free, result):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage(free, 0, free))
    report = doctor()
    assert report["disk"] == result
    assert report.status == (1 if result == "FAIL" else 0)
    assert "a round writes 1 MiB" in report.found("disk")


def test_a_state_folder_that_may_not_be_written(doctor, monkeypatch):
    # As root, who these tests may run as, everything may be written.
    plain = os.access
    monkeypatch.setattr(
        machine.os,
        "access",
        lambda path, mode: not mode & os.W_OK and plain(path, mode),
    )
    report = doctor()
    assert report.failures() == ["disk"]
    assert "may not write" in report.found("disk")


def test_packages_that_are_missing_or_of_another_version(doctor, monkeypatch):
    wanted = ["numpy>=99", "cryptography", "nothing-like-it>=1", 'torch>=99; extra == "silo"',
              'ruff>=99; extra == "dev"']  # fmt: skip
    monkeypatch.setattr(machine.metadata, "requires", lambda _: wanted)
    report = doctor()
    assert report.failures() == ["packages"]
    found = report.found("packages")
    assert "numpy is " in found
    assert "and should be >=99" in found
    assert "nothing-like-it isn't installed" in found
    assert "torch is " in found
    assert "ruff" not in found
    assert "cryptography" not in found


@pytest.mark.parametrize(
    ("version", "result"), [((3, 13, 0), "WARN"), ((3, 10, 0), "FAIL")]
)
def test_another_python(doctor, monkeypatch, version, result):
    info = namedtuple("info", "major minor micro")(*version)
    monkeypatch.setattr(machine.sys, "version_info", info)
    assert doctor()["python"] == result


# ------------------------------------------------------------------ approval, ledger, budget


def test_approval(doctor, silo, fedit):
    assert doctor()["approval"] == "WARN"
    assert fedit("charter", "approve", silo / "silo.yaml", "--yes").status == 0
    assert doctor()["approval"] == "PASS"
    approval = silo / "clinic-a.approval"
    kept = approval.read_text()
    approval.unlink()
    report = doctor()
    assert report["approval"] == "WARN"
    assert "isn't there" in report.found("approval")
    signature = json.loads(kept)["signature"]
    approval.write_text(kept.replace(signature, signature[::-1]))
    report = doctor()
    assert (report.failures(), report.status) == (["approval"], 6)
    record = silo / "state" / "approvals" / "north.json"
    digest = json.loads(record.read_text())["digest"]
    record.write_text(record.read_text().replace(digest, digest[::-1]))
    report = doctor()
    assert "approved another charter" in report.found("admission")
    assert "isn't epoch 1 of 'north', which" in report.found("approval")


def test_a_ledger_with_charges_and_one_that_was_edited(doctor, silo, keep_ledger):
    keep_ledger(silo, rounds=2)
    report = doctor()
    assert report["ledger"] == report["epsilon"] == "PASS"
    assert report.found("ledger").startswith("3 entries, whole")
    journal = silo / "state" / "journal.sqlite"
    edited = journal.read_bytes().replace(b'"intent"', b'"intend"')
    assert edited != journal.read_bytes()
    journal.write_bytes(edited)
    report = doctor()
    assert (report.failures(), report.status) == (["ledger"], 1)


def test_a_budget_that_is_nearly_or_wholly_spent(doctor, silo, keep_ledger):
    keep_ledger(silo, rounds=4)
    report = doctor()
    assert report["epsilon"] == "WARN"
    assert " of 8 is left" in report.found("epsilon")
    assert "fedit budget set" in report.fix("epsilon")
    edit(silo / "policy.yaml", "epsilon: 8 ", "epsilon: 3 ")
    report = doctor()
    assert report.failures() == ["epsilon"]
    assert report.status == 7


def test_a_clock_that_was_set_back(doctor, silo, keep_ledger, monkeypatch):
    keep_ledger(silo, rounds=1, seen=datetime.now(UTC).timestamp() + 86_400)
    report = doctor()
    assert report["ledger"] == "WARN"
    assert "24 hours ahead of this clock" in report.found("ledger")
    assert report.fix("ledger").startswith("Set the clock")


# ------------------------------------------------------------------------------- the model


def test_a_base_model_that_is_not_the_charters(doctor, silo):
    config = silo.parent / "base" / "config.json"
    config.write_text(config.read_text() + " ")
    report = doctor("--offline")
    assert (report.failures(), report.status) == (["base-model"], 4)
    assert "isn't the base model that was agreed on" in report.found("base-model")
    assert [report[step] for step in STEPS] == ["SKIP"] * len(STEPS)


@pytest.mark.parametrize(
    ("name", "result", "sentence"),
    [("./nowhere", "FAIL", "no such base model folder"),
     ("somebody/something", "SKIP", "isn't on this machine yet")],
)  # fmt: skip
def test_a_base_model_that_is_not_there(
    doctor, silo, name, result, sentence, monkeypatch
):
    edit(silo / "silo.yaml", "model: ../base", f"model: {name}")
    report = doctor("--offline")
    assert report["base-model"] == result
    assert sentence in report.found("base-model")
    assert report.fix("base-model")


CHILDREN = {
    "killed": (
        f"os.kill(os.getpid(), {signal.SIGKILL})",
        "most likely memory ran out",
        1,
    ),
    "ended": ("sys.exit(3)", "ended with status 3", 1),
    "cut": ("sys.stdout.write('{'); sys.exit(1)", "ended with status 1", 1),
    "refused": (
        "print(json.dumps({'step': 'gradients', 'error': 'no rows', 'exit_status': 4}))",
        "no rows",
        4,
    ),
}


@pytest.mark.parametrize("case", CHILDREN)
def test_a_child_that_ends_fails_the_step_it_was_at(doctor, monkeypatch, case):
    code, sentence, status = CHILDREN[case]
    said = "".join(
        f"print(json.dumps({{'step': '{step}', 'found': 'good', 'warning': {warning}}}),"
        " flush=True)\n"
        for step, warning in (("torch", None), ("model", "'mind it'"))
    )
    program = f"import json, os, sys\nsys.stdin.readline()\n{said}{code}\n"
    monkeypatch.setattr(model, "_WORKER", ("-c", program))
    report = doctor("--offline")
    assert (report["torch"], report["model"]) == ("PASS", "WARN")
    assert report.found("model") == "good; mind it"
    assert (report.failures(), report.status) == (["gradients"], status)
    assert sentence in report.found("gradients")
    assert report["memory"] == report["dry-step"] == "SKIP"


def test_the_child_does_not_outlive_the_command(doctor, monkeypatch, tmp_path):
    mark = tmp_path / "pid"
    program = (
        "import json, os, sys, time\n"
        f"open({str(mark)!r}, 'w').write(str(os.getpid()))\n"
        "print(json.dumps({'step': 'torch', 'error': 'no', 'exit_status': 4}), flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(model, "_WORKER", ("-c", program))
    assert doctor("--offline")["torch"] == "FAIL"
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


# ------------------------------------------------------------------ how a list is gone over


def case_of(tmp_path):
    return Case(tmp_path / "silo.yaml", "silo")


def raises(error):
    def look(_):
        raise error

    return look


def test_each_check_is_isolated_and_the_first_failure_gives_the_status(tmp_path):
    checks = (
        Check("a", lambda _: "fine", "Fix a."),
        Check("b", raises(PolicyRefusal("not allowed")), "Fix b."),
        Check("c", raises(RuntimeError("one\ntwo")), "Fix c."),
        Check("d", raises(ModuleNotFoundError("no", name="torch")), "Fix d."),
        Check("e", lambda _: Warn("so so"), "Fix e.", needs=("a",)),
        Check("f", lambda _: "never", "Fix f.", needs=("b", "e", "g")),
        Check("g", raises(ConfigError("wrong")), "Fix g.", needs=("e",)),
    )
    findings = list(go_through(checks, case_of(tmp_path), quick=False))
    told = {f.check: (f.result, f.found, f.fix, f.status) for f in findings}
    assert told["a"] == ("PASS", "fine", None, 0)
    assert told["b"] == ("FAIL", "not allowed", "Fix b.", 6)
    assert told["c"][:2] == ("FAIL", "unexpected RuntimeError: one")
    assert told["c"][3] == 5
    assert "isn't installed" in told["d"][1]
    assert "pip install" in told["d"][2]
    assert told["e"] == ("WARN", "so so", "Fix e.", 0)
    assert told["f"][:2] == ("SKIP", "it needs b and g, which didn't pass")
    assert told["g"] == ("FAIL", "wrong", "Fix g.", 4)
    assert exit_status(findings) == 6
    assert exit_status([f for f in findings if f.result != "FAIL"]) == 0


def test_a_file_that_cannot_be_read_is_one_sentence(fedit, tmp_path):
    result = fedit("doctor", tmp_path / "silo.yaml")
    assert (result.status, result.out) == (4, "")
    assert "can't be read" in result.err
