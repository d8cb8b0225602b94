from __future__ import annotations

import pytest

from fedit_secure.errors import ConfigError, PolicyRefusal, StorageError
from fedit_secure.federation.approval import (
    Approval,
    approve,
    check_approved,
    check_epoch,
    highest_approved,
    load_approvals,
    remember,
    verify_approval,
    verify_approvals,
)
from fedit_secure.secagg.keys import verify
from fedit_secure.secagg.transcript import digest, u64

SILOS = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")


@pytest.fixture
def approvals(charter, parties):
    return [approve(charter, name, parties[name].signing) for name in SILOS]


@pytest.fixture(scope="session")
def second(make_plan, make_charter, cards, charter):
    return make_charter(make_plan(run="second"), cards, predecessor=charter)


@pytest.fixture(scope="session")
def third(make_plan, make_charter, cards, second):
    return make_charter(make_plan(), cards, predecessor=second)


def test_what_is_signed(charter, parties, approvals):
    signed = digest("fedit/approve/v1", b"north", u64(1), charter.digest(), b"clinic-a")
    verify(
        parties["clinic-a"].signing.public,
        signed,
        bytes.fromhex(approvals[0].signature),
    )


def test_all_must_approve(charter, approvals):
    verify_approvals(charter, approvals)
    verify_approvals(charter, approvals[::-1])
    with pytest.raises(
        PolicyRefusal, match=r"2 of 4 silos haven't .*: clinic-c, clinic-d"
    ):
        verify_approvals(charter, approvals[:2])
    with pytest.raises(PolicyRefusal, match="'clinic-a' has approved twice"):
        verify_approvals(charter, [*approvals, approvals[0]])


def test_the_charter_is_hashed_once_for_all_approvals(charter, approvals, monkeypatch):
    """It has a row for each silo: once an approval would be quadratic in the silos."""
    hashed = []
    whole = type(charter).digest
    monkeypatch.setattr(type(charter), "digest", lambda c: hashed.append(c) or whole(c))
    verify_approvals(charter, approvals)
    assert hashed == [charter]


def test_forged_approvals(charter, second, approvals, parties):
    mine, other = approvals[:2]
    for forged, why in [
        (mine.model_copy(update={"signature": other.signature}), "isn't signed by its"),
        (mine.model_copy(update={"signature": "00" * 64}), "isn't signed by its"),
        (mine.model_copy(update={"name": "clinic-b"}), "isn't signed by its"),
        (mine.model_copy(update={"name": "clinic-x"}), "isn't in the roster"),
        (mine.model_copy(update={"epoch": 2}), "is for another charter"),
        (mine.model_copy(update={"federation": "south"}), "is for another charter"),
        (
            mine.model_copy(update={"digest": second.digest().hex()}),
            "for another charter",
        ),
        (
            approve(second, "clinic-a", parties["clinic-a"].signing),
            "for another charter",
        ),
    ]:
        with pytest.raises(PolicyRefusal, match=why):
            verify_approval(charter, forged)
        with pytest.raises(PolicyRefusal):
            verify_approvals(charter, [forged, *approvals[1:]])


def test_a_foreign_key_cannot_approve(charter, parties):
    with pytest.raises(
        PolicyRefusal, match="pins another identity for silo 'clinic-a'"
    ):
        approve(charter, "clinic-a", parties["clinic-b"].signing)
    with pytest.raises(PolicyRefusal, match="isn't in the roster"):
        approve(charter, "hub", parties["hub"].signing)


def test_files(approvals, tmp_path):
    folder = tmp_path / "approvals"
    folder.mkdir()
    for approval in approvals:
        (folder / f"{approval.name}.approval").write_bytes(approval.to_bytes())
    assert load_approvals([folder]) == tuple(approvals)
    assert load_approvals([folder / "clinic-b.approval"]) == (approvals[1],)
    with pytest.raises(ConfigError, match="nowhere"):
        load_approvals([tmp_path / "nowhere.approval"])
    damaged = approvals[0].to_bytes().replace(b"clinic-a", b"clinic-A")
    with pytest.raises(ConfigError, match="'name'"):
        Approval.from_bytes(damaged, "an approval")


# ------------------------------------------------------------------------------- epochs


def test_old_charter(charter, second, third, tmp_path):
    assert highest_approved(tmp_path, "north") is None
    with pytest.raises(PolicyRefusal, match="has approved no charter of 'north'"):
        check_approved(tmp_path, charter)
    for epoch in (charter, second, third):
        remember(tmp_path, epoch)
        check_approved(tmp_path, epoch)
    assert highest_approved(tmp_path, "north").epoch == 3
    for old in (charter, second):
        with pytest.raises(PolicyRefusal, match="lower than epoch 3"):
            check_epoch(tmp_path, old)
        with pytest.raises(PolicyRefusal, match="lower than epoch 3"):
            remember(tmp_path, old)
        with pytest.raises(PolicyRefusal, match="isn't epoch 3"):
            check_approved(tmp_path, old)
    assert highest_approved(tmp_path, "north").digest == third.digest().hex()


def test_the_same_charter_may_be_approved_again(charter, tmp_path):
    remember(tmp_path, charter)
    remember(tmp_path, charter)


def test_two_charters_of_one_epoch(charter, make_plan, make_charter, cards, tmp_path):
    twin = make_charter(make_plan(run="twin"), cards)
    remember(tmp_path, charter)
    with pytest.raises(PolicyRefusal, match="approved another charter for epoch 1"):
        remember(tmp_path, twin)
    heir = make_charter(make_plan(), cards, predecessor=twin)
    with pytest.raises(PolicyRefusal, match="names another predecessor"):
        remember(tmp_path, heir)


def test_a_silo_that_was_away_may_skip_epochs(charter, third, tmp_path):
    remember(tmp_path, charter)
    remember(tmp_path, third)
    assert highest_approved(tmp_path, "north").epoch == 3


def test_federations_are_kept_apart(charter, make_plan, make_charter, cards, tmp_path):
    remember(tmp_path, charter)
    remember(tmp_path, make_charter(make_plan(federation="south"), cards))
    assert highest_approved(tmp_path, "north").digest == charter.digest().hex()


def test_a_damaged_record_is_not_guessed(charter, tmp_path):
    remember(tmp_path, charter)
    path = tmp_path / "approvals" / "north.json"
    whole = path.read_bytes()
    for damage in (b"", whole[:-5], whole.replace(b'"epoch": 1', b'"epoch": 0')):
        path.write_bytes(damage)
        with pytest.raises(StorageError, match="record of approved epochs is damaged"):
            check_epoch(tmp_path, charter)
    path.write_bytes(whole.replace(b"north", b"south"))
    with pytest.raises(StorageError, match="another federation"):
        check_epoch(tmp_path, charter)
