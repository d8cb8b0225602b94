from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from fedit_secure.cli.main import main
from fedit_secure.config import load_policy
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.update import from_float32
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.silo.charge_clock import ChargeClock
from fedit_secure.silo.ledger_opening import new_ledger, open_journal

SILOS = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")
RECORDS = 400
TARGET = "layers.3.mlp.down_proj"
LAYOUT = (
    (f"base_model.model.model.{TARGET}.lora_A.weight", (2, 352)),
    (f"base_model.model.model.{TARGET}.lora_B.weight", (128, 2)),
)

PLAN = """\
federation: north
run: first
aggregator: localhost:7443
base_model: base
initial_state: given.bin
rounds: 3
expires: {expires}
max_tokens: 64
lora: {{rank: 2, targets: [layers.3.mlp.down_proj]}}
tuning: {{learning_rate: 1e-3, local_steps: 8}}
dp: {{epsilon: 8, delta: 1e-6, expected_batch: 64}}
"""


class Result:
    """What one command line did."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def fedit(capsys, monkeypatch):
    """Runs a command line in this process."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def _claim_alone(monkeypatch):
    """What stands beside the claim takes seconds; its own tests compute it."""
    monkeypatch.setattr("fedit_secure.cli.beside.SECONDS", 0.0)


def _records(count):
    lines = (
        {"instruction": f"What is {n} plus 1?", "response": f"It is {n + 1}."}
        for n in range(count)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="session")
def drafted(tmp_path_factory):
    """A federation's folder up to the charter; copied for each test."""
    root = tmp_path_factory.mktemp("federation")
    shutil.copytree(base_model_path(), root / "base")
    state = from_float32(LAYOUT, np.linspace(-1, 1, 960, dtype=np.float32))
    (root / "given.bin").write_bytes(state.to_bytes())
    expires = (datetime.now(UTC) + timedelta(days=365)).date()
    (root / "plan.yaml").write_text(PLAN.format(expires=expires))
    cards = []
    for name in SILOS:
        options = ("--folder", root / name, "--contact", "x", "--tell-records", RECORDS)
        assert main(list(map(str, ("silo", "init", name, *options)))) == 0
        config = (root / name / "silo.yaml").read_text()
        config = config.replace("charter: charter.json", "charter: ../charter.json")
        (root / name / "silo.yaml").write_text(config)
        (root / name / "records.jsonl").write_text(_records(RECORDS))
        cards.append(root / name / "identity")
    hub = ("aggregator", "init", "hub", "--folder", root / "hub", "--contact", "x")
    assert main(list(map(str, hub))) == 0
    draft = ("charter", "draft", root / "plan.yaml", *cards, root / "hub" / "identity",
             "-o", root / "charter.json")  # fmt: skip
    assert main(list(map(str, draft))) == 0
    return root


@pytest.fixture
def federation(drafted, tmp_path):
    """A fresh copy of the drafted federation."""
    copy = tmp_path / "federation"
    shutil.copytree(drafted, copy)
    return copy


def files(folder):
    """Every file below a folder with its content: to see that nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def person_charter(root, cap=16):
    """Makes the drafted charter one per person, of as many persons as it had records."""
    path = root / "charter.json"
    content = json.loads(path.read_text())
    content["dp"] |= {"unit": "person", "records_per_person": cap}
    for row in content["roster"]:
        row["persons"], row["records"] = row["records"], None
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@pytest.fixture
def make_person_charter():
    return person_charter


def ledger_in(silo, rounds, seen=None):
    """Writes the ledger of a drafted silo that has charged some rounds of its charter.

    `seen`: the latest time, in seconds since 1970, that its journal has noted.
    """
    charter = Charter.load(silo.parent / "charter.json")
    identity = load_identity(silo / "identity")
    opened = new_ledger(
        charter,
        silo.name,
        identity.signing,
        load_policy(silo / "policy.yaml"),
        bytes(32),
    )
    for number in range(1, rounds + 1):
        opened = opened.reserve(
            charter.plan_for(silo.name), run=charter.run, round=number,
            charter=charter.digest().hex(), state_digest="00" * 32, weight=1,
            max_lost_charges=rounds,
        )  # fmt: skip
    with open_journal(silo / "state") as journal:
        notes = {}
        if seen is not None:
            times = ChargeTimes(int(seen), (int(seen),) * rounds)
            notes = ChargeClock(journal, silo.name).note(times)
        journal.commit(
            population=silo.name,
            expected_sequence=0,
            entries=opened.entries,
            notes=notes,
        )


@pytest.fixture
def keep_ledger():
    return ledger_in


@pytest.fixture
def snapshot():
    return files
