"""Every tampered bundle is told from an honest one, by the right name."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from audit.forge import Evidence, signed_head
from audit.honest_runs import (
    LACKS,
    STORIES,
    a_plain_run,
    of_silo,
    peers_that_saw_the_heads,
)
from audit.parties import HUB, key_of
from audit.sealing import write_folder, write_zip
from audit.tampered import TABLE, Files, Tampered
from audit.tampered_ledgers import chained, seen_head
from audit.tampering import main

from fedit_secure.audit.facts import Audit
from fedit_secure.audit.findings import FAULTS, Fault
from fedit_secure.audit.ledger_reader import _Reader
from fedit_secure.audit.verify import audit_bundle
from fedit_secure.errors import ConfigError
from fedit_secure.federation.claim import Claim, sign_claim
from fedit_secure.privacy import accountant
from fedit_secure.privacy.accountant import Epsilons
from fedit_secure.privacy.events import Event
from fedit_secure.privacy.ledger import Ledger

NEVER_FORGED = {"accountants-disagree"}  # it takes a bug of ours, as in the last test


def audited(files: Files, folder: Path) -> Audit:
    return audit_bundle(write_zip(files, folder / "run.zip"))


def faults(audit: Audit) -> list[Fault]:
    return [fault for verdict in audit.verdicts for fault in verdict.faults]


def said(found: list[Fault]) -> str:
    return "\n".join(f"{f.code} ({f.where}): {f.what}" for f in found)


# --------------------------------------------------------------------------- the forger


@pytest.mark.parametrize("name", STORIES)
def test_the_ledgers_of_every_story_are_in_order(name: str) -> None:
    for silo, chain in STORIES[name]().chains.items():
        ledger = Ledger.from_entries(f"patients of {silo}", chain.entries)
        assert ledger.hash == chain.hashes[-1]


def test_a_forged_claim_is_the_one_that_a_silo_signs() -> None:
    evidence = a_plain_run()
    charter, chain = evidence.world.charter, evidence.chains["s1"]
    ledger = Ledger.from_entries(chain.population, chain.entries)
    forged = Claim.from_bytes(evidence.files["claims/s1.claim"], "it")
    assert sign_claim(charter, "s1", ledger, key_of("s1")) == forged


# ----------------------------------------------------------------------- honest stories


@pytest.mark.parametrize("name", STORIES)
def test_every_honest_story_passes(name: str, tmp_path: Path) -> None:
    audit = audited(STORIES[name]().sealed(), tmp_path)
    assert not faults(audit), said(faults(audit))
    assert audit.passed
    lacking = {v.claim for v in audit.verdicts if v.result == "not shown"}
    assert lacking == LACKS.get(name, set())
    assert all(v.lacks for v in audit.verdicts if v.result == "not shown")


def test_a_folder_is_as_good_as_a_file(tmp_path: Path) -> None:
    files = a_plain_run().sealed()
    as_folder = audit_bundle(write_folder(files, tmp_path / "run"))
    as_file = audited(files, tmp_path)
    assert as_folder.passed
    assert as_folder.verdicts == as_file.verdicts
    assert as_folder.silos == as_file.silos


# --------------------------------------------------------------------- tampered bundles


@pytest.mark.parametrize("case", TABLE.values(), ids=lambda case: case.name)
def test_every_tampered_bundle_is_named(case: Tampered, tmp_path: Path) -> None:
    if case.refused:
        with pytest.raises(ConfigError) as refusal:
            audited(case.make(), tmp_path)
        assert all(text in str(refusal.value) for text in case.refused)
        return
    audit = audited(case.make(), tmp_path)
    found = faults(audit)
    assert {fault.code for fault in found} == case.codes, said(found)
    assert not audit.passed
    roots = [fault for fault in found if fault.code == case.code]
    assert any(names_all(case, fault) for fault in roots), said(roots)
    accused = {silo for fault in found for silo in silos_in(fault)}
    if case.silo is not None and not case.also:
        assert accused <= {case.silo}, said(found)
    failed = {v.claim for v in audit.verdicts if v.result == "fails"}
    assert failed == {FAULTS[code][0] for code in case.codes}


def names_all(case: Tampered, fault: Fault) -> bool:
    """Whether a fault names the silo, round, entry and file that are to blame."""
    text = f"{fault.where} {fault.what}"
    if case.silo == HUB:
        silo = f"cards/{HUB}" in text
    else:
        silo = case.silo is None or case.silo in silos_in(fault)
    return (
        silo
        and (case.round is None or f"round {case.round}" in text)
        and (case.entry is None or f"entry {case.entry}" in fault.where)
        and case.file in (None, fault.where)
    )


def silos_in(fault: Fault) -> set[str]:
    """Which of the silos a fault names in the place where it says whose it is."""
    names = {f"s{i}" for i in range(6)}
    where = fault.where.replace("/", " ").replace(".", " ").replace(",", " ")
    return names & set(where.split()) or names & {fault.what.split()[0]}


def test_there_is_a_tampered_bundle_for_every_fault() -> None:
    told = {code for case in TABLE.values() for code in case.codes} - {"refused"}
    assert told <= FAULTS.keys()
    assert FAULTS.keys() - told == NEVER_FORGED
    assert len(TABLE) >= 60


def test_the_script_writes_them_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(tmp_path)
    assert len(list(tmp_path.glob("*.zip"))) == len(STORIES) + len(TABLE)
    table = capsys.readouterr().out
    assert all(case.done in table for case in TABLE.values())


# ---------------------------------------------------------------------------- witnesses


def with_witness(run: Evidence, witness: Evidence, folder: Path) -> list[Fault]:
    path = write_zip(run.sealed(), folder / "run.zip")
    other = write_zip(witness.sealed(), folder / "silo.zip")
    return faults(audit_bundle(path, witnesses=[other]))


def test_a_silos_own_bundle_bears_the_run_out(tmp_path: Path) -> None:
    evidence = peers_that_saw_the_heads()
    assert not with_witness(evidence, of_silo(evidence, "s1"), tmp_path)


def test_another_history_in_a_silos_own_bundle(tmp_path: Path) -> None:
    """The silo keeps another ledger than it handed over: both heads are under its name."""
    evidence = peers_that_saw_the_heads()
    own = of_silo(evidence, "s1")
    entries = list(evidence.chains["s1"].entries)
    chain = chained([*entries[:-1], entries[-1].replace(b"released", b"withheld")])
    own.files["ledgers/s1.jsonl"] = chain.to_bytes()
    own.put_head(signed_head("s1", chain.head()))
    found = with_witness(evidence, own, tmp_path)
    assert [(f.code, f.where) for f in found] == [("ledger-forked", "ledger of s1")]


def test_another_history_that_a_witness_saw(tmp_path: Path) -> None:
    evidence = peers_that_saw_the_heads()
    own = of_silo(evidence, "s1")
    other = evidence.chains["s2"].head(4)
    own.put_seen("s1", seen_head("s2", type(other)(other.population, 4, bytes(32))))
    found = with_witness(evidence, own, tmp_path)
    assert [(f.code, f.where) for f in found] == [("ledger-forked", "ledger of s2")]


def test_a_head_that_only_a_stranger_signed_accuses_nobody(tmp_path: Path) -> None:
    evidence = peers_that_saw_the_heads()
    own = of_silo(evidence, "s1")
    entries = evidence.chains["s1"].entries
    other = chained([*entries[:-1], entries[-1].replace(b"released", b"withheld")])
    own.put_head(signed_head("s1", other.head(), by="stranger"))
    assert not with_witness(evidence, own, tmp_path)


# --------------------------------------------------------------------- our own mistakes


@pytest.mark.parametrize(
    "figures",
    [Epsilons(1.0, 1.1, 2.0), Epsilons(1.0, 1.0, 0.9)],
    ids=["PLD and PRV", "RDP"],
)
def test_accountants_that_disagree(
    figures: Epsilons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accountant, "spent_epsilons", lambda event, delta: figures)
    found = faults(audited(a_plain_run().sealed(), tmp_path))
    accused = [f.where for f in found if f.code == "accountants-disagree"]
    assert accused == [f"charter, silo s{i}" for i in range(4)]


def test_every_kind_of_entry_is_judged() -> None:
    """A kind that is added to the schema has to be added here, or it is refused."""
    assert set(_Reader._RULES) == set(get_args(Event))
