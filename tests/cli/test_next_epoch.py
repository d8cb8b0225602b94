"""Where the adapter of a next epoch starts: what the coordinator has to say of it, and what
each silo's operator is shown."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.update import GridState, from_float32
from fedit_secure.privacy.ledger import Ledger, Opened, Released
from fedit_secure.storage.journal import Journal

ME = "clinic-a"
SILOS = (ME, "clinic-b", "clinic-c", "clinic-d")
OTHER = from_float32((("x.lora_A.weight", (2, 2)),), np.zeros(4, np.float32))


def draft(fedit, root, start):
    """The second epoch, which starts there; `start` is a line of the plan."""
    if not (root / "first.bin").exists():
        (root / "initial-state.bin").rename(root / "first.bin")
    plan = (root / "plan.yaml").read_text().replace("run: first", "run: second")
    lines = [line for line in plan.splitlines() if not line.startswith("initial_state")]
    lines = [line for line in lines if not line.startswith("predecessor")]
    whole = [*lines, "predecessor: charter.json", start]
    (root / "plan.yaml").write_text("\n".join(whole) + "\n")
    cards = [root / name / "identity" for name in (*SILOS, "hub")]
    where = ("-o", root / "second.json")
    return fedit("charter", "draft", root / "plan.yaml", *cards, *where)


def run_folder(root):
    """An aggregator's, before its first certificate."""
    folder = root / "run"
    (folder / "states").mkdir(parents=True)
    shutil.copy(root / "charter.json", folder)
    charter = Charter.load(root / "charter.json")
    name = f"{charter.adapter.initial_digest}.state"
    shutil.copy(root / "initial-state.bin", folder / "states" / name)
    return folder


def test_the_plan_has_to_say_where_the_next_epoch_starts(fedit, federation):
    folder = run_folder(federation)
    first = Charter.load(federation / "charter.json")
    result = draft(fedit, federation, "")
    assert result.status == 4
    assert "set 'initial_state' to that epoch's run folder" in result.err
    result = draft(fedit, federation, f"initial_state: {folder}")
    assert result.status == 0, result.err
    assert "from the state after round 0 of epoch 1" in result.err
    second = Charter.load(federation / "second.json")
    assert second.adapter.initial_digest == first.adapter.initial_digest
    (federation / "second.json").unlink()
    (federation / "initial-state.bin").unlink()
    assert draft(fedit, federation, "initial_state: drawn").status == 0
    drawn = Charter.load(federation / "second.json")
    assert drawn.adapter.initial_digest != first.adapter.initial_digest


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("initial_state: clinic-a", "isn't an aggregator's run folder"),
        ("initial_state: other.bin", "its tensors aren't those of this base"),
        ("initial_state: plan.yaml", "this is not a federation state"),
    ],
)
def test_what_is_no_start(fedit, federation, start, says):
    (federation / "other.bin").write_bytes(OTHER.to_bytes())
    result = draft(fedit, federation, start)
    assert result.status == 4
    assert says in result.err
    assert not (federation / "second.json").exists()


def test_a_folder_without_a_predecessor_is_no_start(fedit, federation, snapshot):
    plan = (federation / "plan.yaml").read_text().replace("given.bin", "clinic-a")
    (federation / "plan.yaml").write_text(plan)
    (federation / "initial-state.bin").unlink()
    cards = [federation / name / "identity" for name in (*SILOS, "hub")]
    where = ("-o", federation / "new.json")
    result = fedit("charter", "draft", federation / "plan.yaml", *cards, *where)
    assert result.status == 4
    assert "names no 'predecessor' whose run it could be" in result.err


def ledger_with(silo, charter, state_digest):
    """The silo's ledger after one round of a charter that ended in this state."""
    own = charter.digest().hex()
    key = load_identity(silo / "identity").signing
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity=key.public.hex(),
            population=ME,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=30.0,
            filter_order=3.0,
            fingerprints="cd" * 32,
            software="test",
        )
    ).reserve(
        charter.plan_for(ME), run=charter.run, round=1, charter=own,
        state_digest=charter.adapter.initial_digest, weight=1,
    )  # fmt: skip
    ledger = ledger.append(
        Released(
            charter=own, round=1, release_digest="11" * 32, state_digest=state_digest
        )
    )
    (silo / "state").mkdir(exist_ok=True)
    with Journal.open(silo / "state" / "journal.sqlite", create=True) as journal:
        journal.commit(population=ME, expected_sequence=0, entries=ledger.entries)


def test_an_operator_sees_where_the_adapter_starts(fedit, federation):
    silo = federation / ME
    policy = (silo / "policy.yaml").read_text().replace("epsilon: 8 ", "epsilon: 30 ")
    (silo / "policy.yaml").write_text(policy)
    first = Charter.load(federation / "charter.json")

    def start():
        approve = ("charter", "approve", silo / "silo.yaml", "--yes")
        result = fedit(*approve, "--format", "json")
        assert result.status == 0, result.err
        return result.json["starts_from"]

    assert start() == "an adapter that no round has changed"
    assert draft(fedit, federation, "initial_state: given.bin").status == 0
    (federation / "second.json").replace(federation / "charter.json")
    assert start() == "a state unknown here: this silo has no round of epoch 1"
    given = GridState.from_bytes((federation / "given.bin").read_bytes())
    ledger_with(silo, first, given.digest().hex())
    known = "the state after round 1 of epoch 1, the last one known here"
    assert start() == known
    shutil.rmtree(silo / "state")
    ledger_with(silo, first, "ee" * 32)
    assert start().startswith("ANOTHER state than that after round 1 of epoch 1")
