"""What `fedit audit export` gathers, and what it says of the bundle that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from fedit_secure.audit.bundle import Maker
from fedit_secure.audit.evidence.enclosures import cards_in
from fedit_secure.audit.evidence.export import Evidence, export_bundle
from fedit_secure.audit.evidence.run_evidence import run_evidence
from fedit_secure.audit.evidence.silo_evidence import silo_evidence
from fedit_secure.cli.standing import identity_of
from fedit_secure.config import (
    load_aggregator_config,
    load_silo_config,
    passphrase_of,
    role_of,
)
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import Identity, load_identity
from fedit_secure.silo.claims import keep_claim
from fedit_secure.silo.ledger_opening import missing_journal, stored_ledger
from fedit_secure.storage.journal import Journal

Written = tuple[dict[str, Any], tuple[str, ...]]


def export_run(
    config: Path,
    output: Path,
    *,
    run: Path | None,
    cards: Path | None,
    claims: Path | None,
    replace: bool,
) -> Written:
    """Write the bundle of whoever's configuration this is: facts of it, and what it lacks.

    Raises ConfigError, PolicyRefusal and StorageError; nothing is written then.
    """
    if output.exists() and not replace:
        raise ConfigError(f"{output} exists already; --force replaces it")
    if role_of(config) == "aggregator":
        return _of_aggregator(config, output, run, cards, claims, replace)
    if run is not None or claims is not None:
        raise ConfigError("--run and --claims are for an aggregator's bundle")
    return _of_silo(config, output, cards, replace)


def _of_aggregator(
    config: Path,
    output: Path,
    run: Path | None,
    cards: Path | None,
    claims: Path | None,
    replace: bool,
) -> Written:
    loaded = load_aggregator_config(config)
    identity = load_identity(loaded.identity, passphrase_of(loaded))
    charter = Charter.load(loaded.charter)
    if charter.aggregator.identity != identity.card.identity:
        raise ConfigError(f"the charter {loaded.charter} pins another aggregator")
    folder = run or loaded.state / charter.digest().hex()[:16]
    known = [identity.card, *(cards_in(cards, charter) if cards else ())]
    evidence = run_evidence(folder, charter, cards=known, claims=claims)
    return _write(output, evidence, charter, identity, "aggregator", replace)


def _of_silo(config: Path, output: Path, cards: Path | None, replace: bool) -> Written:
    loaded = load_silo_config(config)
    identity = identity_of(loaded)
    charter = Charter.load(loaded.charter)
    charter.check_card(identity.card)
    path = loaded.state / "journal.sqlite"
    if not path.exists() and path.with_name("journal.made").exists():
        raise missing_journal(path)
    known = [identity.card, *(cards_in(cards, charter) if cards else ())]
    given, key = (charter, loaded.name), identity.signing
    with Journal.open(path, read_only=True) as journal:
        ledger = stored_ledger(journal, *given)
        if ledger is None:
            raise ConfigError(f"there is no ledger of this silo in {path} yet")
        evidence = silo_evidence(
            journal,
            *given,
            key,
            ledger=ledger,
            claim=keep_claim(loaded.state, *given, ledger, key),
            approval=loaded.approval,
            cards=known,
        )
    return _write(output, evidence, charter, identity, "silo", replace)


def _write(
    output: Path,
    evidence: Evidence,
    charter: Charter,
    identity: Identity,
    role: Literal["aggregator", "silo"],
    replace: bool,
) -> Written:
    manifest = export_bundle(
        output,
        evidence.pieces,
        maker=Maker(role=role, name=identity.name),
        charter=charter.digest(),
        key=identity.signing,
        replace=replace,
    )
    facts = {
        "bundle": output,
        "maker": f"{role} {identity.name}",
        "federation": charter.federation,
        "run": charter.run,
        "charter": charter.digest().hex(),
        "rounds": evidence.rounds,
        "files": len(manifest.files),
        "bytes": output.stat().st_size,
    }
    return facts, evidence.lacks
