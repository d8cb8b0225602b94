from __future__ import annotations

import asyncio
import shutil
import zipfile
from pathlib import Path

import pytest
import small_federation
from audit.stories import LINK, plain

AGGREGATOR = """\
identity: hub/identity
state: state
charter: charter.json
approvals: approvals
initial_state: initial.state
listen: 127.0.0.1:7443
"""

SILO = """\
name: s0
identity: s0/identity
state: s0
charter: charter.json
approval: s0.approval
policy: policy.yaml
model: base
data: {path: records.jsonl}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose run has ended, with the aggregator's files beside it."""
    root = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_federation, "FaultyLink", LINK)
        federation = asyncio.run(plain(root))
    charter = federation.charter
    (root / "charter.json").write_bytes(charter.to_bytes())
    (root / "aggregator.yaml").write_text(AGGREGATOR)
    (root / "s0.yaml").write_text(SILO)
    (root / "s0.approval").write_bytes(federation.approvals[0].to_bytes())
    (root / "cards").mkdir()
    for party in federation.silos:
        path = root / "cards" / f"{party.name}.card"
        path.write_bytes(party.card.to_bytes())
    (root / "state").mkdir()
    (root / "run").rename(root / "state" / charter.digest().hex()[:16])
    return root


@pytest.fixture
def root(ended: Path, tmp_path: Path) -> Path:
    """A fresh copy of it."""
    copy = tmp_path / "root"
    shutil.copytree(ended, copy)
    return copy


def run_folder(root: Path) -> Path:
    (found,) = (root / "state").iterdir()
    return found


def test_it_writes_one_file_and_says_what_is_in_it(fedit, root):
    output = root / "bundle.zip"
    export = ("audit", "export", root / "aggregator.yaml", "-o", output)
    result = fedit(*export, "--cards", root / "cards", "--format", "json")
    assert result.status == 0, result.err
    facts = result.json
    assert facts["maker"] == "aggregator hub"
    assert facts["rounds"] == 2
    assert facts["bytes"] == output.stat().st_size
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == facts["files"] + 2
        assert {"cards/hub.card", "cards/s3.card"} <= set(archive.namelist())
    assert "card" not in result.err


def test_what_isnt_in_it_is_said(fedit, root):
    result = fedit("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    assert result.status == 0, result.err
    assert "not in it: the card of s0, s1, s2, s3" in result.err


def test_it_takes_the_configuration_that_is_here(fedit, root, monkeypatch):
    monkeypatch.chdir(root)
    assert fedit("audit", "export").status == 0
    assert (root / "bundle.zip").exists()
    (root / "silo.yaml").write_text("name: s0\n")
    result = fedit("audit", "export", "-o", "other.zip")
    assert result.status == 4
    assert "name the aggregator.yaml or silo.yaml" in result.err


def test_nothing_is_overwritten_without_force(fedit, root):
    output = root / "bundle.zip"
    output.write_bytes(b"mine")
    export = ("audit", "export", root / "aggregator.yaml", "-o", output)
    result = fedit(*export)
    assert result.status == 4
    assert "--force" in result.err
    assert output.read_bytes() == b"mine"
    assert fedit(*export, "--force").status == 0
    assert zipfile.is_zipfile(output)


def test_what_is_missing_is_one_sentence(fedit, root, snapshot):
    (run_folder(root) / "rounds/002/sum.int32").unlink()
    before = snapshot(root)
    result = fedit("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert "rounds/002/sum.int32" in result.err
    assert snapshot(root) == before


def test_a_charter_without_a_run_has_nothing_to_export(fedit, root):
    shutil.rmtree(root / "state")
    result = fedit("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    assert result.status == 4
    assert "there is no run of this charter" in result.err


def test_a_claim_that_a_silo_gave_us_takes_the_place_of_what_it_sent(fedit, root):
    """Or is added, where it sent none."""
    claims = run_folder(root) / "claims"
    (root / "given").mkdir()
    (claims / "s1.claim").rename(root / "given" / "from-their-mail.claim")
    export = ("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    result = fedit(*export, "--cards", root / "cards")
    assert "not in it: the claim of s1" in result.err
    result = fedit(*export, "--force", "--claims", root / "given")
    assert "claim" not in result.err
    with zipfile.ZipFile(root / "b.zip") as archive:
        assert "claims/s1.claim" in archive.namelist()
    altered = root / "given" / "from-their-mail.claim"
    altered.write_bytes(altered.read_bytes().replace(b"record", b"person"))
    result = fedit(*export, "--force", "--claims", root / "given")
    assert result.status == 4
    assert "from-their-mail.claim: the claim of silo 's1' isn't signed" in result.err


def test_a_silo_exports_what_it_has(fedit, root):
    output = root / "s0.zip"
    result = fedit(
        "audit", "export", root / "s0.yaml", "-o", output, "--format", "json"
    )
    assert result.status == 0, result.err
    assert result.json["maker"] == "silo s0"
    assert result.json["rounds"] is None
    with zipfile.ZipFile(output) as archive:
        assert set(archive.namelist()) == {
            "approvals/s0.approval",
            "cards/s0.card",
            "charter.json",
            "claims/s0.claim",
            "heads/s0.json",
            "ledgers/s0.jsonl",
            "manifest.json",
            "manifest.sig",
            "seen/s0.json",
        }
    result = fedit("audit", "export", root / "s0.yaml", "--run", root, "-o", root / "x")
    assert result.status == 4
    assert "are for an aggregator's bundle" in result.err


def test_a_silo_without_a_ledger_or_approval_has_nothing_to_export(fedit, root):
    export = ("audit", "export", root / "s0.yaml", "-o", root / "s0.zip")
    (root / "s0.approval").unlink()
    result = fedit(*export)
    assert result.status == 4
    assert "s0.approval can't be read" in result.err
    (root / "s0/journal.sqlite").unlink()
    result = fedit(*export)
    assert "fedit budget restore" in result.err
    (root / "s0/journal.made").unlink()
    result = fedit(*export)
    assert result.status == 1
    assert "there is no journal" in result.err
    assert not (root / "s0.zip").exists()


def test_a_file_that_is_no_configuration_is_said_to_be_none(fedit, root):
    (root / "other.yaml").write_text("rounds: 3\n")
    result = fedit("audit", "export", root / "other.yaml", "-o", root / "b.zip")
    assert result.status == 4
    assert "neither a silo.yaml nor an aggregator.yaml" in result.err


def test_a_run_folder_elsewhere_is_given(fedit, root):
    run_folder(root).rename(root / "run")
    export = ("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    assert fedit(*export, "--run", root / "run").status == 0


def test_another_partys_card_is_refused_by_name(fedit, root):
    forged = root / "cards" / "s1.card"
    forged.write_bytes(
        forged.read_bytes().replace(b'"contact": "x"', b'"contact": "y"')
    )
    export = ("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    result = fedit(*export, "--cards", root / "cards")
    assert result.status == 4
    assert "s1.card: the card of silo 's1' isn't signed by its identity" in result.err
    assert not (root / "b.zip").exists()


def test_another_aggregator_cant_sign_for_this_one(fedit, root):
    text = AGGREGATOR.replace("hub/identity", "s1/identity")
    (root / "aggregator.yaml").write_text(text)
    result = fedit("audit", "export", root / "aggregator.yaml", "-o", root / "b.zip")
    assert result.status == 4
    assert "pins another aggregator" in result.err
