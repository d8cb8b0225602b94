from __future__ import annotations

import pytest

from fedit_secure.federation.approval import approve
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.update import GridState

SILOS = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")


def cards(root):
    return [root / name / "identity" for name in (*SILOS, "hub")]


def write_approvals(root, charter):
    folder = root / "approvals"
    folder.mkdir(exist_ok=True)
    for name in SILOS:
        identity = load_identity(root / name / "identity")
        approval = approve(charter, name, identity.signing)
        (folder / f"{name}.approval").write_bytes(approval.to_bytes())
    return folder


# ---------------------------------------------------------------------------------- init


def test_init_makes_keys_card_and_starter_files(fedit, tmp_path):
    made = fedit("silo", "init", "a", "--contact", "x", "--folder", tmp_path / "a",
                 "--format", "json")  # fmt: skip
    assert made.status == 0
    assert made.json["card"] == str(tmp_path / "a" / "identity" / "a.card")
    names = {path.name for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert names == {"identity.key", "issuer.key", "issuer.crt", "a.card", "silo.yaml",
                     "policy.yaml"}  # fmt: skip
    assert "records" not in made.json


def test_the_starter_files_are_valid(fedit, tmp_path):
    from fedit_secure.config import (
        load_aggregator_config,
        load_policy,
        load_silo_config,
    )

    fedit("silo", "init", "a", "--contact", "x", "--folder", tmp_path / "a")
    fedit("aggregator", "init", "hub", "--contact", "x", "--folder", tmp_path / "hub")
    assert load_silo_config(tmp_path / "a" / "silo.yaml").name == "a"
    assert load_policy(tmp_path / "a" / "policy.yaml").epsilon == 8
    config = load_aggregator_config(tmp_path / "hub" / "aggregator.yaml")
    assert config.identity == tmp_path / "hub" / "identity"


def test_init_overwrites_nothing(fedit, tmp_path, snapshot):
    options = ("--contact", "x", "--folder", tmp_path / "a")
    assert fedit("silo", "init", "a", *options).status == 0
    before = snapshot(tmp_path)
    again = fedit("silo", "init", "a", *options)
    assert again.status == 4
    assert "never overwritten" in again.err
    assert snapshot(tmp_path) == before


def test_init_with_a_bad_name_writes_nothing(fedit, tmp_path, snapshot):
    result = fedit(
        "silo", "init", "Bad Name", "--contact", "x", "--folder", tmp_path / "a"
    )
    assert result.status == 4
    assert result.err.count("\n") == 1
    assert snapshot(tmp_path) == {}


# --------------------------------------------------------------------------------- draft


def test_draft_writes_charter_and_state(federation):
    charter = Charter.load(federation / "charter.json")
    state = GridState.from_bytes((federation / "initial-state.bin").read_bytes())
    assert charter.adapter.initial_digest == state.digest().hex()
    assert [row.name for row in charter.roster] == list(SILOS)
    assert charter.base_model.name == "base"


def draft(fedit, root, *changes, given=None, output="new.json"):
    plan = (root / "plan.yaml").read_text()
    for old, new in changes:
        assert old in plan
        plan = plan.replace(old, new)
    (root / "plan.yaml").write_text(plan)
    paths = cards(root) if given is None else given
    return fedit("charter", "draft", root / "plan.yaml", *paths, "-o", root / output)


@pytest.fixture
def undrafted(federation):
    (federation / "initial-state.bin").unlink()
    (federation / "charter.json").unlink()
    return federation


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("base_model: base", "base_model: ./nowhere", "nowhere: no such base model"),
        (
            "rounds: 3",
            "round: 3",
            "line 6: the key 'round' is unknown; did you mean 'rounds",
        ),
        ("epsilon: 8, ", "", "'dp.epsilon' and 'dp.delta'"),
        ("given.bin", "plan.yaml", "this is not a federation state"),
        ("given.bin", "nowhere.bin", "nowhere.bin can't be read"),
        ("max_tokens: 64", "template: klingon", "unknown template 'klingon'"),
        ("max_tokens: 64", "max_tokens: 512", "512, but the base model has 256 posit"),
        ("rank: 2", "rank: 4", "given.bin: its tensors aren't those of this base"),
        ("expected_batch: 64", "expected_batch: 6400", "fewer than its expected batch"),
        (
            "rounds: 3",
            "rounds: 3\nparticipation: 0.5",
            "plan.yaml line 7: the plan's 'participation' draws 2 of 4 silos a round",
        ),
        ("rounds: 3", "participation: 2\nrounds: 3", "line 6: the field 'participat"),
    ],
)
def test_a_bad_plan_writes_nothing(fedit, undrafted, snapshot, old, new, sentence):
    before = set(snapshot(undrafted))
    result = draft(fedit, undrafted, (old, new))
    assert result.status == 4
    assert sentence in result.err
    assert result.err.splitlines()[-1].startswith("fedit: ")
    assert set(snapshot(undrafted)) == before


def test_a_forged_card_is_refused(fedit, undrafted, snapshot):
    card = undrafted / "clinic-a" / "identity" / "clinic-a.card"
    card.write_bytes(card.read_bytes().replace(b'"records": 400', b'"records": 401'))
    before = set(snapshot(undrafted))
    result = draft(fedit, undrafted)
    assert result.status == 4
    assert "'clinic-a' isn't signed by its identity" in result.err
    assert set(snapshot(undrafted)) == before


def test_draft_replaces_no_file(fedit, federation, snapshot):
    before = snapshot(federation)
    result = draft(fedit, federation, output="charter.json")
    assert result.status == 4
    assert "exists already" in result.err
    assert snapshot(federation) == before


def test_draft_of_the_next_epoch(fedit, federation):
    (federation / "initial-state.bin").rename(federation / "first.bin")
    result = draft(
        fedit, federation, ("run: first", "run: second\npredecessor: charter.json")
    )
    assert result.status == 0, result.err
    first, second = (Charter.load(federation / n) for n in ("charter.json", "new.json"))
    assert (second.epoch, second.predecessor) == (2, first.digest().hex())
    folder = write_approvals(federation, second)
    for predecessor, status in (("charter.json", 0), ("new.json", 4)):
        result = fedit("charter", "verify", federation / "new.json", folder,
                       "--predecessor", federation / predecessor)  # fmt: skip
        assert result.status == status, result.err


# ---------------------------------------------------------------------------------- show


def test_show(fedit, federation):
    charter = Charter.load(federation / "charter.json")
    table = fedit("charter", "show", federation / "charter.json")
    assert table.status == 0
    assert " ".join(charter.words()) in table.out
    found = fedit(
        "charter", "show", federation / "charter.json", "--format", "json"
    ).json
    assert found["digest"] == charter.digest().hex()
    assert found["federation"] == "north"
    assert [row["silo"] for row in found["roster"]] == list(SILOS)
    assert 7.9 < found["roster"][0]["epsilon"] <= 8


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"rounds": 3', '"rounds": 4'),
        lambda text: text.replace('"epsilon": 8.0', '"epsilon": 80.0'),
    ],
)
def test_an_edited_charter_has_other_words(fedit, federation, edit):
    path = federation / "charter.json"
    before = fedit("charter", "show", path, "--format", "json").json["words"].split()
    path.write_text(edit(path.read_text()))
    after = fedit("charter", "show", path, "--format", "json").json["words"].split()
    assert sum(a == b for a, b in zip(before, after, strict=True)) < 3


def test_show_refuses_what_is_no_charter(fedit, federation):
    path = federation / "charter.json"
    path.write_text(path.read_text().replace('"rounds": 3', '"rounds":3'))
    result = fedit("charter", "show", path)
    assert (result.status, result.out) == (4, "")
    assert result.err.count("\n") == 1
    assert fedit("charter", "show", federation / "nowhere.json").status == 4


def test_names_from_files_are_not_read_as_markup(fedit, federation):
    path = federation / "charter.json"
    path.write_text(path.read_text().replace('"name": "base"', '"name": "[bold]base"'))
    assert "[bold]base" in fedit("charter", "show", path).out


# -------------------------------------------------------------------------------- verify


def test_verify(fedit, federation):
    charter = Charter.load(federation / "charter.json")
    folder = write_approvals(federation, charter)
    result = fedit("charter", "verify", federation / "charter.json", folder,
                   "--format", "json")  # fmt: skip
    assert result.status == 0
    assert result.json["approved_by"] == list(SILOS)
    assert result.json["words"] == " ".join(charter.words())


def test_a_wrong_approval_ends_with_6(fedit, federation):
    charter = Charter.load(federation / "charter.json")
    folder = write_approvals(federation, charter)
    path = folder / "clinic-b.approval"
    good = path.read_bytes()
    other = (folder / "clinic-a.approval").read_bytes()

    def verify():
        result = fedit("charter", "verify", federation / "charter.json", folder)
        assert result.out == ""
        assert result.err.count("\n") == 1
        return result.status, result.err

    signature = other.split(b'"signature": ')[1]
    path.write_bytes(good.split(b'"signature": ')[0] + b'"signature": ' + signature)
    status, text = verify()
    assert status == 6
    assert "'clinic-b' isn't signed by its identity" in text
    path.write_bytes(good.replace(b"clinic-b", b"clinic-x"))
    status, text = verify()
    assert status == 6
    assert "'clinic-x' isn't in the roster" in text
    path.unlink()
    status, text = verify()
    assert status == 6
    assert "1 of 4 silos haven't approved the charter: clinic-b" in text
    path.write_bytes(good[:-20])
    assert verify()[0] == 4
