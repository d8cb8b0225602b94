"""The demo's last step: what an auditor would get, and would find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedit_secure.audit.bundle import Maker
from fedit_secure.audit.evidence.export import export_bundle
from fedit_secure.audit.evidence.run_evidence import run_evidence
from fedit_secure.audit.report import render
from fedit_secure.audit.verify import audit_bundle
from fedit_secure.federation.durable import write_durably
from fedit_secure.simulation.parties import LocalFederation

_POINTS = 12


def audit_run(
    federation: LocalFederation, run: Path, beside: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Export the run's evidence, verify it and write the report.

    `beside`: rows for the report of what the claim doesn't say. Without the extra that
    draws it, there is no report, and the facts say None.
    """
    bundle, report = federation.folder / "bundle.zip", federation.folder / "report.html"
    hub = federation.aggregator
    cards = [party.card for party in (*federation.silos.values(), hub)]
    export_bundle(
        bundle,
        run_evidence(run, federation.charter, cards=cards).pieces,
        maker=Maker(role="aggregator", name=hub.name),
        charter=federation.charter.digest(),
        key=hub.signing,
        replace=False,
    )
    audit = audit_bundle(bundle, points=_POINTS)
    drawn = all(map(find_spec, ("jinja2", "matplotlib")))
    if drawn:
        page = render(audit, beside)
        write_durably(report, page.encode())
    return {
        "bundle": bundle,
        "audit": audit.verdict,
        "audit_passed": audit.passed,
        "report": report if drawn else None,
    }
