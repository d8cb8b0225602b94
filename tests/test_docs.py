"""What the documents say of the code is what the code does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from named_tests import file_of

from fedit_secure.audit.canary.detections import DETECTORS
from fedit_secure.audit.findings import BELIEVED, CLAIMS, FAULTS
from fedit_secure.cli.diagnosis.lists import AGGREGATOR as AGGREGATOR_CHECKS
from fedit_secure.cli.diagnosis.lists import silo_checks
from fedit_secure.cli.diagnosis.model import Trial
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg.aggregator_steps import PHASES
from fedit_secure.secagg.protocol import AGGREGATOR, SILO

Table = dict[tuple[type, type], Callable[..., Any]]

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
LABEL = re.compile(r"fedit/[a-z0-9/-]+/v\d+")


def rows(head: str, page: str = "protocol") -> list[list[str]]:
    """The cells of a page's table whose head begins like this."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {head} |"):
            break
    next(lines)  # the rule
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    assert found, f"docs/{page}.md has no table {head!r}"
    return found


def test_protocol_names_every_label_of_the_code_and_no_other() -> None:
    used: set[str] = set()
    for path in (ROOT / "fedit_secure").rglob("*.py"):
        used.update(LABEL.findall(path.read_text(encoding="utf-8")))
    assert set(LABEL.findall(PROTOCOL)) == used


def test_table_of_thresholds_is_what_the_parameters_compute() -> None:
    for silos, corrupt, threshold, missing in rows("N | c"):
        n = int(silos.split()[0])
        params = release_sizes(n, length=100, bound=1.0, allow_pair=n == 2)
        assert (params.corrupt, params.threshold) == (int(corrupt), int(threshold))
        assert params.minimum == params.threshold
        assert n - params.minimum == int(missing)


@pytest.mark.parametrize(("head", "table"), [("state", SILO), ("phase", AGGREGATOR)])
def test_tables_of_steps_are_the_transition_tables(head: str, table: Table) -> None:
    documented = [
        ((state.strip(), message.strip()), step)
        for states, messages, step, *_ in rows(head)
        for state in states.split(",")
        for message in messages.split(",")
    ]
    assert len(documented) == len(table)
    assert dict(documented) == {
        (state.__name__, message.__name__): step.__name__
        for (state, message), step in table.items()
    }


def test_table_of_phases_says_what_ends_each() -> None:
    ends = {(phase, step): end for phase, _, step, end in rows("phase") if end}
    assert ends == {
        (phase.__name__, collect.__name__): end.__name__
        for phase, (_, collect, end) in PHASES.items()
    }


PITFALLS = {row[0]: row[1:] for row in rows("pitfall", "privacy")}


@pytest.mark.parametrize("pitfall", PITFALLS, ids=lambda text: text[:40])
def test_every_pitfall_of_privacy_names_tests_that_are_there(pitfall: str) -> None:
    closed, tests = PITFALLS[pitfall]
    assert closed
    named = tests.split("<br>")
    assert len(named) == len(set(named))
    for test in named:
        assert re.fullmatch(r"`[^`]+`", test), f"{test!r} is no test's name"
        assert file_of(test.strip("`")).name.startswith("test_")


def test_no_pitfall_of_privacy_is_left_out() -> None:
    assert len(PITFALLS) == len(rows("pitfall", "privacy")) == 29


FAULTS_HELD = """
a silo dies while it tunes
a silo dies in the masking window
the aggregator dies
power goes
the network is lost for minutes, or half-open
a silo is slow, or stands still
two daemons with one identity
stale and replayed messages
a clock is wrong, a certificate expired
another charter
the disk is full
the state folder is read-only
the disk breaks
the ledger is damaged, cut short or old
SIGTERM, and a daemon that is drained
""".strip().splitlines()
OF_PROCESSES = (
    "real_federation", "process_federation", "simulation.processes", "subprocess_exec"
)  # fmt: skip


def test_every_fault_befalls_real_processes_in_tests_that_are_there() -> None:
    told = {fault: tests.split("<br>") for fault, tests in rows("fault", "attacks")}
    assert list(told) == FAULTS_HELD
    for fault, tests in told.items():
        texts = [file_of(test.strip("`")).read_text(encoding="utf-8") for test in tests]
        assert len(tests) == len(set(tests)), fault
        for test, text in zip(tests, texts, strict=True):
            assert any(word in text for word in OF_PROCESSES), f"{test}: no process"


def test_the_auditors_guide_names_every_claim_and_every_fault() -> None:
    claims = {claim.strip("`") for claim, _ in rows("claim", "auditor")}
    assert claims == set(CLAIMS)
    told = {
        code.strip("`"): (claim, means)
        for code, claim, means, _ in rows("fault", "auditor")
    }
    assert told == FAULTS


def test_the_auditors_guide_says_what_no_bundle_proves() -> None:
    page = (ROOT / "docs" / "auditor.md").read_text(encoding="utf-8")
    _, _, believed = page.partition("## What remains to be believed")
    assert all(f"- {sentence}\n" in believed for sentence in BELIEVED)


def test_privacy_names_every_detector_of_the_canary_audit() -> None:
    told = {name.strip("`"): flags for name, flags in rows("detector", "privacy")}
    assert told == DETECTORS


def test_the_operators_guide_names_every_check_of_the_doctor_and_its_fix() -> None:
    silo = {check.name: check.fix for check in silo_checks(Trial())}
    hub = {check.name: check.fix for check in AGGREGATOR_CHECKS}
    assert all(hub[name] == silo[name] for name in hub.keys() & silo.keys())
    of = dict.fromkeys(silo, "silo") | dict.fromkeys(hub, "aggregator")
    of |= dict.fromkeys(hub.keys() & silo.keys(), "both")
    told = {
        name.strip("`"): (of, fix) for name, of, _, fix in rows("check", "operator")
    }
    assert told == {name: (of[name], (silo | hub)[name]) for name in of}
