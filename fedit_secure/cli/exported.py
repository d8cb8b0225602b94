"""What `fedit audit export` gathers, and what it says of the bundle that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedit_secure.audit.bundle import Maker
from fedit_secure.audit.enclosures import cards_in
from fedit_secure.audit.export import export_bundle
from fedit_secure.audit.run_evidence import run_evidence
from fedit_secure.config import load_aggregator_config
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity


def export_aggregator(
    config: Path,
    output: Path,
    run: Path | None,
    cards: Path | None,
    claims: Path | None,
    replace: bool,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write the bundle of an aggregator's run; facts of it, and what it lacks.

    Raises ConfigError and StorageError; nothing is written then.
    """
    if output.exists() and not replace:
        raise ConfigError(f"{output} exists already; --force replaces it")
    loaded = load_aggregator_config(config)
    identity = load_identity(loaded.identity)
    charter = Charter.load(loaded.charter)
    if charter.aggregator.identity != identity.card.identity:
        raise ConfigError(f"the charter {loaded.charter} pins another aggregator")
    folder = run or loaded.state / charter.digest().hex()[:16]
    known = [identity.card, *(cards_in(cards, charter) if cards else ())]
    evidence = run_evidence(folder, charter, cards=known, claims=claims)
    manifest = export_bundle(
        output,
        evidence.pieces,
        maker=Maker(role="aggregator", name=charter.aggregator.name),
        charter=charter.digest(),
        key=identity.signing,
        replace=replace,
    )
    facts = {
        "bundle": output,
        "maker": f"{manifest.maker.role} {manifest.maker.name}",
        "federation": charter.federation,
        "run": charter.run,
        "charter": charter.digest().hex(),
        "rounds": evidence.rounds,
        "files": len(manifest.files),
        "bytes": output.stat().st_size,
    }
    return facts, evidence.lacks
