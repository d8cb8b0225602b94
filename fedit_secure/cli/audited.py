"""An audit as facts and tables for a terminal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fedit_secure.audit.bundle import Bundle, charter_of
from fedit_secure.audit.facts import Audit, SiloFacts
from fedit_secure.cli.beside import beside_the_claim
from fedit_secure.errors import AuditFailed, ConfigError
from fedit_secure.federation.adapter_digests import adapter_digest
from fedit_secure.federation.durable import read_file

_FILE = "adapter_model.safetensors"


def summary(audit: Audit) -> dict[str, Any]:
    """What was audited, and the outcome in one word."""
    outcomes = [round.outcome for round in audit.rounds]
    return {
        "bundle": audit.bundle,
        "made_by": audit.maker,
        "federation": f"{audit.federation}, run {audit.run}, epoch {audit.epoch}",
        "charter": audit.charter,
        "words": audit.words,
        "rounds": (
            f"{outcomes.count('released')} released and {outcomes.count('skipped')} "
            f"skipped of {audit.plan['rounds']}"
        ),
        "verdict": audit.verdict,
    }


def tables(audit: Audit) -> dict[str, list[dict[str, Any]]]:
    """The verdicts, the faults and what is lacking, and the silos' costs."""
    claims = [
        {"claim": v.claim, "result": v.result, "what_it_says": v.sentence}
        for v in audit.verdicts
    ]
    faults = [
        {"fault": f.code, "where": f.where, "what": f.what}
        for v in audit.verdicts
        for f in v.faults
    ]
    lacks = [
        {"claim": v.claim, "would_need": ", ".join(v.lacks)}
        for v in audit.verdicts
        if v.lacks
    ]
    silos = [_silo(silo) for silo in audit.silos]
    return {"claims": claims, "faults": faults, "not_shown": lacks, "silos": silos}


def findings_table(audit: Audit) -> list[dict[str, Any]]:
    """One row a claim; where it has faults, one row for each of them."""
    return [
        {
            "claim": verdict.claim,
            "result": verdict.result,
            "fault": fault and fault.code,
            "where": fault and fault.where,
            "what": fault.what if fault else verdict.sentence,
        }
        for verdict in audit.verdicts
        for fault in verdict.faults or (None,)
    ]


def _silo(silo: SiloFacts) -> dict[str, Any]:
    return {
        "silo": silo.name,
        "per": silo.unit,
        "charges": f"{silo.charges} of {silo.planned}",
        "lost": silo.lost,
        "epsilon_spent": _figure(silo.lifetime.published),
        "signed": _figure(silo.claimed),
        "the_run_claims": None if silo.run is None else _figure(silo.run.published),
        "against_the_cap": _figure(silo.counted),
        "cap": silo.cap,
        "delta": silo.lifetime.delta,
    }


def beside(path: Path, audit: Audit) -> tuple[str, list[dict[str, Any]]]:
    """The silo whose run costs most, and what its epsilon leaves out; no rows without DP."""
    private = [silo for silo in audit.silos if silo.run is not None]
    if not private:
        return "", []
    worst = max(private, key=lambda silo: silo.run.published if silo.run else 0.0)
    with Bundle(path) as bundle:
        charter = charter_of(bundle)
    return worst.name, beside_the_claim(charter, worst.name)


def require_passed(audit: Audit) -> None:
    """Raises AuditFailed, with the first fault, if a claim fails."""
    failed = [verdict for verdict in audit.verdicts if verdict.result == "fails"]
    if failed:
        fault = failed[0].faults[0]
        raise AuditFailed(
            f"{len(failed)} of {len(audit.verdicts)} claims fail; the first is "
            f"{failed[0].claim!r}: {fault.code} ({fault.where}): {fault.what}"
        )


def adapter_row(audit: Audit, folder: Path) -> dict[str, Any]:
    """Whether a PEFT folder holds the adapter that the sums lead to.

    Raises ConfigError if it can't be read, or the bundle doesn't show the adapter.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / _FILE if folder.is_dir() else folder
    if audit.adapter is None:
        raise ConfigError("the bundle's sums lead to no adapter to compare with")
    try:
        tensors = load(read_file(path, "the adapter"))
    except (SafetensorError, ValueError, TypeError) as wrong:
        raise ConfigError(f"{path} is no .safetensors file: {wrong}") from None
    same = adapter_digest(tensors.items()) == audit.adapter
    return {"adapter_is_the_runs": same}


def _figure(epsilon: float | None) -> float | str | None:
    return "unbounded" if epsilon == math.inf else epsilon
