"""`fedit budget restore` and `inherit`: what they read, write, refuse and end with."""

from __future__ import annotations

import json
import shutil

import pytest

from fedit_secure.config import load_silo_config
from fedit_secure.federation.approval import highest_approved
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.heads import SignedHead, sign_head
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.signed_ledger import verified_ledger
from fedit_secure.privacy.ledger import Inherited, Ledger, Lost, Opened
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.fingerprints import Prints
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.overlaps import prints_note
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records

ME = "clinic-a"


@pytest.fixture
def silo(federation):
    return federation / ME


@pytest.fixture
def charter(federation):
    return Charter.load(federation / "charter.json")


def spent_ledger(silo, charter, rounds=2, population=ME):
    """What this silo would have after so many charges."""
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity=load_identity(silo / "identity").card.identity,
            population=population,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=8.0,
            filter_order=3.0,
            fingerprints="cd" * 32,
            software="test",
        )
    )
    for number in range(1, rounds + 1):
        ledger = ledger.reserve(
            charter.plan_for(ME), run=charter.run, round=number,
            charter=charter.digest().hex(), state_digest="00" * 32, weight=1,
        )  # fmt: skip
    return ledger


def write_copy(federation, ledger):
    path = federation / f"{ME}.jsonl"
    path.write_bytes(b"".join(entry + b"\n" for entry in ledger.entries))
    return path


def write_head(federation, ledger, silo):
    head = LedgerHead(ledger.population, ledger.sequence, ledger.hash)
    keys = (silo / "identity", federation / "hub" / "identity")
    own, hub = (sign_head(load_identity(key).signing, ME, head).hex() for key in keys)
    signed = SignedHead(
        silo=ME,
        population=head.population,
        sequence=head.sequence,
        hash=head.hash.hex(),
        signature=own,
        countersignature=hub,
    )
    (federation / f"{ME}.head").write_bytes(signed.to_bytes())


def kept(silo, population=ME):
    with Journal.open(silo / "state" / "journal.sqlite", read_only=True) as journal:
        return journal.ledger(population)


def restore(fedit, silo, *arguments):
    config = ("--config", silo / "silo.yaml", "--format", "json")
    return fedit("budget", "restore", *arguments, *config)


@pytest.mark.parametrize("with_head", [False, True])
def test_a_copy_is_restored(fedit, federation, silo, charter, with_head):
    ledger = spent_ledger(silo, charter)
    copy = write_copy(federation, ledger)
    if with_head:
        write_head(federation, ledger, silo)
    result = restore(fedit, silo, copy)
    assert result.status == 0, result.err
    assert kept(silo) == ledger.entries
    assert result.json["ledger_entries"] == 3
    assert result.json["entries_before"] == 0
    assert result.json["epsilon_spent"] == pytest.approx(ledger.spent().published)
    assert "from the next charter epoch on" in result.err
    # What it had approved is remembered again, so that no earlier epoch comes back.
    last = highest_approved(silo / "state", charter.federation)
    assert last is not None
    assert last.digest == charter.digest().hex()
    shown = fedit("budget", "show", silo / "silo.yaml", "--format", "json").json
    assert shown["epsilon_spent"] == result.json["epsilon_spent"]
    again = restore(fedit, silo, copy)
    assert (again.status, again.json["entries_before"]) == (0, 3)
    assert "nothing has changed" in again.err
    served = fedit("silo", "serve", silo / "silo.yaml")
    assert served.status == 6
    assert "from the next charter epoch on" in served.err


def test_a_journal_that_is_missing_is_made_again(fedit, federation, silo, charter):
    """The mark of the lost one stands, and nothing but a restore goes past it."""
    (silo / "state").mkdir()
    (silo / "state" / "journal.made").write_text("made")
    copy = write_copy(federation, spent_ledger(silo, charter))
    refused = fedit("silo", "status", silo / "silo.yaml")
    assert refused.status == 10
    assert "`fedit budget restore`" in refused.err
    assert restore(fedit, silo, copy).status == 0
    assert fedit("silo", "status", silo / "silo.yaml").status == 0


def test_a_bundle_is_a_copy(fedit, federation, silo, charter):
    ledger = spent_ledger(silo, charter)
    write_head(federation, ledger, silo)
    bundle = federation / "bundle"
    (bundle / "ledgers").mkdir(parents=True)
    (bundle / "heads").mkdir()
    shutil.move(write_copy(federation, ledger), bundle / "ledgers" / f"{ME}.jsonl")
    shutil.move(federation / f"{ME}.head", bundle / "heads" / f"{ME}.json")
    archive = shutil.make_archive(str(federation / "bundle"), "zip", bundle)
    for path in (bundle, archive):
        shutil.rmtree(silo / "state", ignore_errors=True)
        assert restore(fedit, silo, path).status == 0
        assert kept(silo) == ledger.entries
    shutil.rmtree(bundle / "ledgers")
    result = restore(fedit, silo, bundle)
    assert result.status == 4
    assert f"has no ledger of silo '{ME}'" in result.err


def cut(data):
    return data[:-3]


def one_entry_less(data):
    return b"".join(data.splitlines(keepends=True)[:-1])


def edited(data):
    return data.replace(b'"round":2', b'"round":9')


def out_of_order(data):
    lines = data.splitlines(keepends=True)
    return b"".join([lines[1], lines[0], *lines[2:]])


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (cut, "the last line is cut short"),
        (one_entry_less, "the head beside it has 3: the ledger would be shortened"),
        (edited, "another history than the head beside it"),
        (out_of_order, "is corrupt at entry 1: the first entry isn't the opening"),
        (lambda data: b"", "the last line is cut short"),
        (lambda data: b"\n", "is corrupt at entry 1"),
    ],
)
def test_a_bad_copy_is_refused(fedit, federation, silo, charter, spoil, what):
    ledger = spent_ledger(silo, charter)
    copy = write_copy(federation, ledger)
    write_head(federation, ledger, silo)
    copy.write_bytes(spoil(copy.read_bytes()))
    result = restore(fedit, silo, copy)
    assert result.status == 4, result.err
    assert str(copy) in result.err
    assert what in result.err
    assert not result.out
    path = silo / "state" / "journal.sqlite"
    assert not path.exists() or kept(silo) == ()


def test_the_command_wants_one_of_two(fedit, silo):
    for arguments in ((), ("x.jsonl", "--charge-full-cap", "--reason", "x")):
        result = restore(fedit, silo, *arguments)
        assert result.status == 4
        assert "either a copy of the ledger or --charge-full-cap" in result.err
    result = restore(fedit, silo, "--charge-full-cap")
    assert result.status == 4
    assert "needs a --reason" in result.err
    missing = restore(fedit, silo, silo / "nowhere.jsonl")
    assert missing.status == 4
    assert "nowhere.jsonl can't be read" in missing.err


def test_a_running_daemon_keeps_its_ledger(fedit, federation, silo, charter):
    copy = write_copy(federation, spent_ledger(silo, charter))
    with open_journal(silo / "state"):
        result = restore(fedit, silo, copy)
    assert result.status == 1
    assert "another process is using" in result.err
    assert kept(silo) == ()


def test_the_whole_cap_can_be_charged_instead(fedit, silo, charter):
    result = restore(
        fedit, silo, "--charge-full-cap", "--reason", "both disks burnt", "--yes"
    )
    assert result.status == 0, result.err
    policy = load_silo_config(silo / "silo.yaml").policy
    assert policy.exists()
    ledger = verified_ledger(ME, kept(silo))
    assert isinstance(ledger.last, Lost)
    assert ledger.last.reason == "both disks burnt"
    assert result.json["epsilon_spent"] == ledger.cap_epsilon
    closed = fedit("charter", "approve", silo / "silo.yaml", "--yes")
    assert closed.status == 6
    assert "from the next charter epoch on" in closed.err
    plan = ("--plan", silo.parent / "charter.json")
    asked = fedit("budget", "show", silo / "silo.yaml", *plan)
    assert asked.status == 7


# ------------------------------------------------------------------------------- inherit


def other_population(silo, charter):
    """Another population in this journal, with the very same records, charged twice."""
    ledger = spent_ledger(silo, charter, population="ward")
    key = load_identity(silo / "identity").signing
    config = load_silo_config(silo / "silo.yaml")
    records = load_records(DataSource.model_validate(config.data.model_dump()))
    with open_journal(silo / "state") as journal:
        notes = prints_note(journal, ledger, None, Prints.of(records, key))
        journal.commit(
            population="ward", expected_sequence=0, entries=ledger.entries, notes=notes
        )
    return ledger


def test_inherit_takes_over_what_is_shared(fedit, silo, charter):
    ledger = other_population(silo, charter)
    arguments = (silo / "silo.yaml", "--reason", "merged", "--format", "json")
    result = fedit("budget", "inherit", *arguments, "--yes")
    assert result.status == 0, result.err
    (row,) = result.json["inherited"]
    assert (row["population"], row["records_shared"]) == ("ward", 400)
    mine = verified_ledger(ME, kept(silo))
    assert isinstance(mine.last, Inherited)
    assert (mine.last.hash, mine.last.reason) == (ledger.hash.hex(), "merged")
    assert mine.spent().published >= ledger.spent().published
    assert result.json["epsilon_spent"] == pytest.approx(mine.spent().published)
    again = fedit("budget", "inherit", *arguments, "--yes")
    assert again.status == 4
    assert "counts every charge of its records already" in again.err


def test_inherit_asks_first(fedit, silo, charter, monkeypatch):
    other_population(silo, charter)
    monkeypatch.setattr("typer.confirm", _declined)
    result = fedit("budget", "inherit", silo / "silo.yaml", "--reason", "merged")
    assert result.status == 130
    assert "400 records" in result.err
    assert kept(silo) == ()


def _declined(*_, **__):
    import typer

    raise typer.Abort


def test_serve_refuses_what_isnt_inherited(fedit, silo, charter):
    other_population(silo, charter)
    approved = fedit("charter", "approve", silo / "silo.yaml", "--yes")
    assert approved.status == 6
    assert "`fedit budget inherit`" in approved.err
    assert json.dumps("ward").strip('"') in approved.err
    assert kept(silo) == ()
