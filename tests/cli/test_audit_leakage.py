"""`fedit audit leakage`: what it prints, what it keeps, and what it refuses."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from audit.remembering import notes, remembered, save

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.update import from_float32
from fedit_secure.privacy.ledger import Ledger, Opened
from fedit_secure.secagg import messages as m
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records
from fedit_secure.wire.codec import encode

BRIEF = ("--length", "8")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """One thread, no network, and no trace in the environment."""
    before = torch.get_num_threads()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")

    def refuse(*_):
        raise AssertionError("it used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    torch.set_num_threads(before)


def write(path, records):
    path.write_text("".join(json.dumps(asdict(r)) + "\n" for r in records))
    return path


@pytest.fixture
def silo(federation):
    """A silo whose records an adapter beside it knows by heart, with others held out."""
    folder = federation / "clinic-a"
    config = folder / "silo.yaml"
    text = config.read_text().replace("model: model", f"model: {base_model_path()}")
    config.write_text(text + "\nthreads: 1\n")
    records, adapter = remembered()
    write(folder / "records.jsonl", records)
    write(folder / "held-out.jsonl", notes(24, seed=2))
    save(adapter, folder / "adapter")
    return folder


def leakage(fedit, silo, *options, adapter="adapter", holdout="held-out.jsonl"):
    if adapter is not None:
        options = ("--adapter", silo / adapter, *options)
    if holdout is not None:
        options = ("--holdout", silo / holdout, *options)
    return fedit("audit", "leakage", silo / "silo.yaml", *BRIEF, *options)


def texts(silo):
    """What no output may hold: words of responses in a row."""
    lines = (silo / "records.jsonl").read_text().splitlines()
    words = [json.loads(line)["response"].split() for line in lines]
    return [" ".join(row[i : i + 3]) for row in words for i in range(0, 9, 3)]


def test_what_is_known_by_heart_is_found_said_and_kept(fedit, silo):
    result = leakage(fedit, silo, "--format", "json")
    assert result.status == 9, result.err
    assert "nothing leaves this machine" in result.err
    facts = result.json
    verdicts = {f["test"]: f["verdict"] for f in facts["findings"]}
    assert verdicts == {
        "membership": "found", "extraction": "found", "names": "not tested",
    }  # fmt: skip
    assert (facts["records"], facts["held_out"]) == (24, 24)
    assert facts["records_as_charged"] is None  # no ledger yet
    assert {row["record"] for row in facts["exposed_records"]} == {
        f"line {number}" for number in range(1, 25)
    }
    assert facts["membership"]["epsilon"] == pytest.approx(facts["epsilon"])

    (report,) = (silo / "state" / "leakage").iterdir()
    assert facts["report"] == str(report)
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert stat.S_IMODE(report.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(report.parent.parent.stat().st_mode) == 0o700
    kept = json.loads(report.read_text())
    assert kept["findings"] == facts["findings"]
    assert kept["trial"] == {"records": 200, "prefix": 5, "length": 8, "seed": 0}


def test_nothing_else_is_written(fedit, silo, snapshot):
    before = snapshot(silo.parent)
    leakage(fedit, silo)
    after = snapshot(silo.parent)
    (new,) = after.keys() - before.keys()
    assert new.startswith("clinic-a/state/leakage/")
    assert {name: after[name] for name in before} == before


def test_records_text_is_shown_on_demand_only_and_never_kept(fedit, silo):
    hidden = leakage(fedit, silo)
    (report,) = (silo / "state" / "leakage").iterdir()
    for text in texts(silo):
        assert text not in hidden.out + hidden.err + report.read_text()
    shown = leakage(fedit, silo, "--show-text")
    assert sum(text in shown.out for text in texts(silo)) > 5
    for text in texts(silo):
        assert text not in report.read_text()


def test_a_table_says_it_in_words(fedit, silo):
    out = leakage(fedit, silo).out
    assert "Does the adapter show which records it was tuned on?" in out
    assert "Does it recite responses?" in out
    assert "control: base model alone" in out
    assert "control: words alone" in out
    assert "needs 1000 held out" in out
    assert "line 1 " in out


def test_an_adapter_that_never_saw_the_records(fedit, silo):
    write(silo / "records.jsonl", notes(24, seed=3))
    result = leakage(fedit, silo, "--format", "json")
    assert result.status == 0, result.err
    assert [f["verdict"] for f in result.json["findings"]] == [
        "nothing found", "nothing found", "not tested",
    ]  # fmt: skip
    assert result.json["exposed_records"] == []


def test_without_held_out_records(fedit, silo):
    result = leakage(fedit, silo, "--format", "json", holdout=None)
    assert result.status == 0, result.err
    membership, extraction, _ = result.json["findings"]
    assert membership["verdict"] == "not tested"
    assert "Give --holdout a file" in membership["do"]
    assert extraction["verdict"] == "unclear"
    assert result.json["held_out"] is None


def certify(silo, round, seed):
    """What a silo has on its disk once its peers have certified a round."""
    charter = Charter.load(silo.parent / "charter.json")
    layout = charter.adapter.layout
    values = np.random.default_rng(seed).normal(0, 0.02, charter.length)
    state = from_float32(layout, values.astype(np.float32))
    StateStore(silo / "state" / "states").put(state)
    word = m.Confirmation(
        silo=0,
        charter=charter.digest(),
        round=round,
        state_digest=state.digest(),
        release_digest=bytes(32),
        signature=bytes(64),
    )
    note = {
        f"{charter.digest().hex()}/certificate": encode(
            m.RoundCertificate(round, (word,))
        )
    }
    with open_journal(silo / "state") as journal:
        journal.commit(notes=note)


def test_the_last_certified_state_is_what_is_tested_by_default(fedit, silo):
    certify(silo, 1, seed=0)
    first = leakage(fedit, silo, "--format", "json", adapter=None)
    assert first.status == 0, first.err
    assert first.json["adapter"] == "the certified state of round 1"
    certify(silo, 2, seed=1)
    second = leakage(fedit, silo, "--format", "json", adapter=None)
    assert second.json["adapter"] == "the certified state of round 2"
    assert second.json["adapter_digest"] != first.json["adapter_digest"]
    assert len(list((silo / "state" / "leakage").iterdir())) == 2


def test_evaluate_scores_it_beside_the_base(fedit, silo):
    options = ("--max-new-tokens", 0, "--limit", 5, "--format", "json")
    shown = ["base"]
    for round in (0, 1):
        if round:
            certify(silo, 1, seed=0)
            shown.append("the certified state of round 1")
        done = fedit("evaluate", "--silo", silo / "silo.yaml", *options)
        assert done.status == 0, done.err
        whole = [row for row in done.json["scores"] if row["category"] is None]
        assert [row["model"] for row in whole] == shown


def test_records_that_changed_since_they_were_charged_are_noticed(fedit, silo):
    identity = load_identity(silo / "identity")
    records = load_records(DataSource(path=str(silo / "records.jsonl")))
    opened = Opened(
        silo="clinic-a",
        identity=identity.signing.public.hex(),
        population="clinic-a",
        adjacency="zero-out",
        delta=1e-6,
        cap_epsilon=8.0,
        filter_order=8.0,
        fingerprints=commitment(records, identity.signing).hex(),
        software="test",
    )
    with open_journal(silo / "state") as journal:
        entries = Ledger.open(opened).entries
        journal.commit(population="clinic-a", expected_sequence=0, entries=entries)
    assert leakage(fedit, silo, "--format", "json").json["records_as_charged"] is True
    write(silo / "records.jsonl", remembered()[0][:-1])
    changed = leakage(fedit, silo, "--format", "json")
    assert changed.json["records_as_charged"] is False
    assert "aren't those that the ledger was last charged for" in changed.err


def test_names_are_asked_for(fedit, silo):
    words = [" ".join(r.response.split()[-3:]) for r in remembered()[0]]
    (silo / "names.txt").write_text("\n".join(words) + "\n")
    secrets = ("--secrets", silo / "names.txt", "--format", "json")
    result = leakage(fedit, silo, *secrets, holdout=None)
    assert result.status == 9
    assert result.json["findings"][2]["verdict"] == "found"
    assert len(result.json["strings"]) == 24
    for text in texts(silo):
        assert text not in result.out


REFUSALS = {
    "no certified state": (
        lambda s: {"adapter": None},
        "no certified state of this charter",
    ),
    "no adapter folder": (lambda s: {"adapter": "nowhere"}, "no such adapter folder"),
    "no held-out file": (
        lambda s: {"holdout": "none.jsonl"},
        "no such file of held-out",
    ),
    "own file held out": (
        lambda s: {"holdout": "records.jsonl"},
        "nothing was held out",
    ),
    "damaged held-out file": (
        lambda s: (s / "held-out.jsonl").write_text("{}\n{") and {},
        "line 2: isn't valid JSON",
    ),
    "cut weights": (
        lambda s: (
            (s / "adapter" / "adapter_model.safetensors").write_bytes(b"1") and {}
        ),
        "adapter_model.safetensors: isn't a safetensors file",
    ),
    "another base model": (
        lambda s: (
            (s / "silo.yaml").write_text(
                (s / "silo.yaml").read_text().replace(str(base_model_path()), "adapter")
            )
            and {}
        ),
        "adapter",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_one_sentence_and_leave_nothing(fedit, silo, case):
    spoil, said = REFUSALS[case]
    result = leakage(fedit, silo, **spoil(silo))
    assert result.status == 4, result.err
    assert said in result.err
    sentence = result.err.splitlines()[-1]
    assert sentence.startswith("fedit: ")
    assert not result.out
    assert not (silo / "state").exists()


@pytest.mark.parametrize("option", ["--records", "--length"])
def test_numbers_out_of_range(fedit, silo, option):
    assert leakage(fedit, silo, option, "0").status == 4


WATCHED = """
import sys
def watch(event, _):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        print("NETWORK", file=sys.stderr)
sys.addaudithook(watch)
from fedit_secure.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_hub_name_is_not_looked_up(silo):
    """In a process of its own, as an operator runs it: the hub's client isn't there yet."""
    config = silo / "silo.yaml"
    text = config.read_text().replace(str(base_model_path()), "nobody/nothing")
    config.write_text(text)
    options = ["--adapter", silo / "adapter", *BRIEF]
    command = [sys.executable, "-c", WATCHED, "audit", "leakage", config, *options]
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "HOME": str(silo), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 4, done.stderr
    assert "nobody/nothing: is neither a base model folder here" in done.stderr
    assert "NETWORK" not in done.stderr
