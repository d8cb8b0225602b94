"""`fedit audit canary`: its verdicts, its exit status, and its entry in the ledger."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedit_secure.audit.canary import build
from fedit_secure.audit.canary.build import Audited
from fedit_secure.audit.canary.detections import DETECTORS, Detection
from fedit_secure.audit.canary.trials import game_plan
from fedit_secure.privacy.ledger import AuditRun, Ledger, Opened
from fedit_secure.storage.journal import Journal

ME = "clinic-a"


def found(*flags: str) -> Audited:
    bounds = {"epsilon_lower_bound": 1.1, "gaussian_epsilon_lower_bound": 1.6}
    detections = [
        Detection(name, name in flags, dict(bounds) if name == "canary" else {"p": 0.5})
        for name in DETECTORS
    ]
    return Audited(game_plan(1e-5), tuple(detections))


@pytest.fixture
def audits(monkeypatch):
    """What the audit finds; `.asked` are its arguments, call by call."""

    class Audits:
        result = found()
        asked: list = []  # noqa: RUF012

        async def __call__(self, tune, base_model, records, **options):
            self.asked.append({"records": records} | options)
            return self.result

    audits = Audits()
    audits.asked = []
    monkeypatch.setattr(build, "audit_build", audits)
    return audits


@pytest.fixture
def silo(federation):
    """A silo whose ledger is open, and whose daemon is stopped."""
    folder = federation / ME
    state = folder / "state"
    state.mkdir(exist_ok=True)
    opened = Opened(
        silo=ME,
        identity="ab" * 32,
        population=ME,
        adjacency="zero-out",
        delta=1e-6,
        cap_epsilon=8.0,
        filter_order=3.0,
        fingerprints="cd" * 32,
        software="test",
    )
    with Journal.open(state / "journal.sqlite", create=True) as journal:
        entries = Ledger.open(opened).entries
        journal.commit(population=ME, expected_sequence=0, entries=entries)
    (state / "journal.made").write_bytes(b"made\n")
    return folder


def ledger(silo) -> Ledger:
    with Journal.open(silo / "state" / "journal.sqlite", read_only=True) as journal:
        return Ledger.from_entries(ME, journal.ledger(ME))


def public(path, *texts):
    rows = ({"instruction": text, "response": "Yes."} for text in texts)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.timeout(600)
def test_this_build_passes_and_the_ledger_says_that_it_was_tried(fedit, silo) -> None:
    """The whole way, on real code: with few canaries it takes as long as an import."""
    options = ("--canaries", 300, "--seed", 7, "--format", "json")
    result = fedit("audit", "canary", silo / "silo.yaml", *options)
    assert result.status == 0, result.err
    facts = result.json
    assert [row["detector"] for row in facts["detectors"]] == list(DETECTORS)
    assert {row["verdict"] for row in facts["detectors"]} == {"passes"}
    assert facts["flagged"] == []
    assert facts["epsilon_claimed"] == pytest.approx(2.7635, abs=1e-3)
    assert 0 <= facts["epsilon_lower_bound"] < facts["epsilon_claimed"]
    assert facts["records"] == "synthetic"
    assert facts["ledger_entry"] == 2
    event = ledger(silo).events[-1]
    assert isinstance(event, AuditRun)
    assert event.noise_multiplier == facts["sigma"] == 1.5
    assert ledger(silo).intents() == ()


def test_a_detector_that_flags_ends_with_status_9(fedit, audits, silo) -> None:
    audits.result = found("clip", "intent")
    result = fedit("audit", "canary", silo / "silo.yaml", "--format", "json")
    assert result.status == 9
    assert "the canary audit flags this build: clip, intent" in result.err
    assert result.json["flagged"] == ["clip", "intent"]
    assert ledger(silo).sequence == 2  # it was run, whatever it found


def test_the_table_says_what_it_proves(fedit, audits) -> None:
    result = fedit("audit", "canary")
    assert result.status == 0
    assert "that none does, shows nothing" in result.out
    for name in DETECTORS:
        assert name in result.out
    assert "0.95" in result.out
    assert "ledger" not in result.out.split("detectors")[0]


def test_public_records_and_a_seed_are_taken(fedit, audits, tmp_path) -> None:
    path = public(tmp_path / "public.jsonl", "Is it so?", "Is it?")
    result = fedit(
        "audit", "canary", "--records", path, "--seed", 5, "--canaries", 400,
        "--format", "json",
    )  # fmt: skip
    assert result.json["records"] == "public"
    assert result.json["seed"] == 5
    (asked,) = audits.asked
    assert [r.instruction for r in asked["records"]] == ["Is it so?", "Is it?"]
    assert (asked["seed"], asked["canaries"]) == (5, 400)


def test_the_silos_own_records_are_refused_and_nothing_is_entered(
    fedit, audits, silo, tmp_path
) -> None:
    own = silo / "records.jsonl"
    result = fedit("audit", "canary", silo / "silo.yaml", "--records", own)
    assert result.status == 6
    assert "record 1 of the audit's records is one of this silo's own" in result.err
    assert audits.asked == []
    assert ledger(silo).sequence == 1
    other = public(tmp_path / "public.jsonl", "Is it so?")
    result = fedit("audit", "canary", silo / "silo.yaml", "--records", other)
    assert result.status == 0
    assert ledger(silo).events[-1].records == "public"


def test_a_running_daemon_keeps_its_ledger(fedit, audits, silo) -> None:
    with Journal.open(silo / "state" / "journal.sqlite"):
        result = fedit("audit", "canary", silo / "silo.yaml")
    assert result.status == 1
    assert "another process is using" in result.err
    assert audits.asked == []


def test_a_silo_without_a_ledger_is_told_so_before_the_work(
    fedit, audits, federation
) -> None:
    result = fedit("audit", "canary", federation / ME / "silo.yaml")
    assert result.status == 1
    assert "journal.sqlite" in result.err
    assert audits.asked == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--canaries", "10"),
            "'--canaries': Input should be greater than or equal to 200",
        ),
        (("--seed", "-1"), "'--seed': Input should be greater than or equal to 0"),
        (("--records", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("nowhere.yaml",), "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_sentence(fedit, audits, options, sentence) -> None:
    result = fedit("audit", "canary", *options)
    assert result.status == 4
    assert sentence in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_synthetic_records_are_all_different_and_go_with_the_seed() -> None:
    first, again, other = (build.synthetic_records(seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({replace(r, category=None) for r in first}) == build.MOST_RECORDS
    assert all(r.instruction.strip() and r.response.strip() for r in first)
