"""`fedit budget set`: the lifetime cap, changed by whoever has the silo's key."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.signed_ledger import check_signatures
from fedit_secure.privacy.ledger import CapChanged, Ledger, LedgerCorrupt, Opened
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.journal import Journal

ME = "clinic-a"


@pytest.fixture
def silo(federation):
    return federation / ME


@pytest.fixture
def charter(federation):
    return Charter.load(federation / "charter.json")


def keep_ledger(silo: Path, charter: Charter, rounds: int = 0, **changes: object):
    """A ledger as the silo's daemon would have opened it, under its own key."""
    key = load_identity(silo / "identity").signing
    fields = {
        "silo": ME,
        "identity": key.public.hex(),
        "population": ME,
        "adjacency": "zero-out",
        "delta": 1e-6,
        "cap_epsilon": 8.0,
        "filter_order": 4.0,
        "fingerprints": "cd" * 32,
        "software": "test",
    }
    ledger = Ledger.open(Opened.model_validate(fields | changes))
    for number in range(1, rounds + 1):
        ledger = ledger.reserve(
            charter.plan_for(ME), run="first", round=number,
            charter=charter.digest().hex(), state_digest="00" * 32, weight=1,
        )  # fmt: skip
    with open_journal(silo / "state") as journal:
        journal.commit(population=ME, expected_sequence=0, entries=ledger.entries)
    return ledger


def kept(silo: Path) -> Ledger:
    with Journal.open(silo / "state" / "journal.sqlite", read_only=True) as journal:
        return Ledger.from_entries(ME, journal.ledger(ME))


def set_cap(fedit, silo, epsilon, *options, reason="board, 2 May"):
    arguments = ("budget", "set", epsilon, silo / "silo.yaml", "--reason", reason)
    return fedit(*arguments, *options)


def policy(silo: Path, **changes: object) -> None:
    path = silo / "policy.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def test_a_raised_cap_is_signed_and_holds(fedit, silo, charter):
    before = keep_ledger(silo, charter, 2)
    policy(silo, epsilon=100)
    result = set_cap(fedit, silo, 12, "--yes", "--format", "json")
    assert result.status == 0, result.err
    for words in (
        "raises what the records of 'clinic-a' may ever cost from 8 to epsilon 12",
        "about one record may then change by a factor of 1.628e+05; it was 2,981",
        "can't be taken back",
    ):
        assert words in result.err
    facts = result.json
    assert (facts["epsilon_cap_before"], facts["epsilon_cap"]) == (8, 12)
    assert facts["epsilon_left"] == pytest.approx(12 - before.spent().published)
    after = kept(silo)
    assert after.entries[:-1] == before.entries
    last = after.events[-1]
    assert isinstance(last, CapChanged)
    assert (last.cap_epsilon, last.reason) == (12, "board, 2 May")
    check_signatures(after)
    shown = fedit("budget", "show", silo / "silo.yaml", "--format", "json").json
    assert shown["epsilon_cap"] == 12


def test_a_lowered_cap(fedit, silo, charter):
    ledger = keep_ledger(silo, charter, 2)
    assert ledger.spent().published > 2
    result = set_cap(fedit, silo, 2, "--yes", "--format", "json")
    assert result.status == 0
    assert "lowers what the records of 'clinic-a' may ever cost from 8" in result.err
    assert "is spent already: nothing more will be charged" in result.err
    assert "factor" not in result.err
    assert result.json["epsilon_left"] == 0


def test_where_there_was_no_cap(fedit, silo, charter):
    keep_ledger(silo, charter, cap_epsilon=None)
    result = set_cap(fedit, silo, 20, "--yes", "--format", "json")
    assert result.status == 0
    assert (
        "lowers what the records of 'clinic-a' may ever cost from no cap" in result.err
    )
    assert "the policy's epsilon of 8 still holds: it is lower" in result.err
    assert result.json["epsilon_cap_before"] is None
    shown = fedit("budget", "show", silo / "silo.yaml", "--format", "json").json
    assert shown["epsilon_cap"] == 8
    check_signatures(kept(silo))


def test_the_policy_can_only_lower_it(fedit, silo, charter, federation):
    keep_ledger(silo, charter, 1)
    policy(silo, epsilon=3)
    assert set_cap(fedit, silo, 100, "--yes").status == 0
    arguments = ("budget", "show", silo / "silo.yaml", "--plan")
    assert fedit(*arguments, federation / "charter.json").status == 7
    policy(silo, epsilon=100)
    assert fedit(*arguments, federation / "charter.json").status == 0


def test_it_asks_at_a_terminal_and_takes_no_for_an_answer(
    fedit, silo, charter, monkeypatch, snapshot
):
    keep_ledger(silo, charter, 1)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    before = snapshot(silo)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert set_cap(fedit, silo, 12).status == 130
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    piped = set_cap(fedit, silo, 12)
    assert piped.status == 4
    assert "--yes" in piped.err
    assert snapshot(silo) == before
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert set_cap(fedit, silo, 12).status == 0
    assert kept(silo).cap_epsilon == 12


@pytest.mark.parametrize(
    ("epsilon", "reason", "sentence"),
    [
        ("8", "why", "the cap of 'clinic-a' is 8 already"),
        ("0", "why", "the cap is 0, but must be positive and finite"),
        ("inf", "why", "the cap is inf, but must be positive and finite"),
        ("nan", "why", "the cap is nan, but must be positive and finite"),
        ("9", " ", 'needs its reason: --reason "..."'),
        ("9", "a\x1bb", "the change: the field 'reason'"),
        ("9", "x" * 201, "the change: the field 'reason'"),
        ("many", "why", "Invalid value for 'epsilon'"),
    ],
)
def test_what_cannot_be_set(fedit, silo, charter, snapshot, epsilon, reason, sentence):
    keep_ledger(silo, charter, 1)
    before = snapshot(silo)
    result = set_cap(fedit, silo, epsilon, "--yes", reason=reason)
    assert result.status == 4
    assert sentence in result.err
    assert "\x1b" not in result.err
    assert snapshot(silo) == before


def test_before_the_first_charter_the_policy_is_the_cap(fedit, silo, snapshot):
    before = snapshot(silo)
    result = set_cap(fedit, silo, 12, "--yes")
    assert result.status == 4
    assert "there is no ledger of 'clinic-a' yet" in result.err
    assert snapshot(silo) == before
    assert not (silo / "state").exists()


def test_not_while_the_daemon_runs(fedit, silo, charter):
    keep_ledger(silo, charter, 1)
    with Journal.open(silo / "state" / "journal.sqlite"):
        result = set_cap(fedit, silo, 12, "--yes")
    assert result.status == 1
    assert "the silo's daemon is running" in result.err
    assert result.err.count("\n") == 1
    assert kept(silo).cap_epsilon == 8


def test_a_lost_ledger_is_not_made_anew(fedit, silo, charter):
    keep_ledger(silo, charter, 1)
    (silo / "state" / "journal.sqlite").unlink()
    result = set_cap(fedit, silo, 12, "--yes")
    assert result.status == 10
    assert "`fedit budget restore`" in result.err


def test_another_key_than_the_ledgers(fedit, silo, charter, snapshot):
    keep_ledger(silo, charter, identity="ab" * 32)
    before = snapshot(silo)
    result = set_cap(fedit, silo, 12, "--yes")
    assert result.status == 4
    assert "only that key can change its cap" in result.err
    assert snapshot(silo) == before


def test_attack_a_cap_raised_in_the_journal_without_the_key(
    fedit, silo, charter, federation
):
    """Whoever can write the file can seal a row; nobody else can sign it."""
    keep_ledger(silo, charter, 1)
    forged = CapChanged(cap_epsilon=80.0, reason="more", signature="0" * 128)
    with Journal.open(silo / "state" / "journal.sqlite") as journal:
        journal.commit(population=ME, expected_sequence=2, entries=[forged.to_bytes()])
    with pytest.raises(LedgerCorrupt, match="at entry 3"):
        check_signatures(kept(silo))
    for command in (
        ("budget", "show", silo / "silo.yaml"),
        ("budget", "history", silo / "silo.yaml"),
        ("budget", "set", 90, silo / "silo.yaml", "--reason", "x", "--yes"),
        ("silo", "status", silo / "silo.yaml"),
        ("charter", "approve", silo / "silo.yaml", "--yes"),
    ):
        result = fedit(*command)
        assert result.status == 1, command
        assert "corrupt at entry 3: the change of the cap isn't signed" in result.err
        assert result.out == ""


def test_attack_the_daemon_refuses_a_forged_cap(fedit, silo, charter, monkeypatch):
    assert fedit("charter", "approve", silo / "silo.yaml", "--yes").status == 0
    keep_ledger(silo, charter, 0, cap_epsilon=1.0)
    forged = CapChanged(cap_epsilon=80.0, reason="more", signature="0" * 128)
    with Journal.open(silo / "state" / "journal.sqlite") as journal:
        journal.commit(population=ME, expected_sequence=1, entries=[forged.to_bytes()])
    reached = lambda *a, **k: pytest.fail("it dialled")  # noqa: E731
    monkeypatch.setattr("fedit_secure.silo.serve.connect", reached)
    result = fedit("silo", "serve", silo / "silo.yaml")
    assert result.status == 1
    assert "isn't signed by the silo's key" in result.err


def test_the_change_is_one_json_object(fedit, silo, charter):
    keep_ledger(silo, charter, 0)
    result = set_cap(fedit, silo, 9, "--yes", "--format", "json")
    assert set(json.loads(result.out)) == {
        "population", "entry", "delta", "epsilon_cap_before", "epsilon_cap",
        "policy_epsilon", "epsilon_spent", "epsilon_left",
    }  # fmt: skip
