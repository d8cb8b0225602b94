"""`fedit audit report`: an audit as one HTML page that needs nothing else, and as CSV.

The page loads nothing and runs nothing: its policy forbids both. Whatever comes from a
bundle is text to it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from fedit_secure.audit.facts import Audit, RoundFacts, SiloFacts
from fedit_secure.audit.findings import CLAIMS, FAULTS
from fedit_secure.errors import ConfigError

_PACKAGES = ("fedit-secure", "dp-accounting", "numpy", "scipy", "cryptography")
_MOST_ROWS = 25  # silos that the table of costs shows in full; of more, the costliest


def require_report() -> None:
    """Raises ConfigError where the extra that draws the page isn't installed."""
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise ConfigError(
                f"the report needs {package}; run pip install 'fedit-secure[report]'"
            )


def render(audit: Audit, beside: Sequence[Mapping[str, Any]] = (), of: str = "") -> str:
    """The page.

    Args:
        audit: what was found; curves of two points and more are drawn.
        beside: readings of what the claim doesn't say, as rows of `hidden`, `epsilon` and
            `stated_by`, for the plan of the silo `of`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from fedit_secure.audit.pictures import curves_picture, sums_picture

    environment = Environment(
        loader=PackageLoader("fedit_secure.audit", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"epsilon": _epsilon, "delta": _delta}
    costly = sorted(audit.silos, key=lambda silo: -_share(silo))
    return environment.get_template("report.html.j2").render(
        audit=audit,
        silos=costly if len(costly) <= _MOST_ROWS else costly[:_MOST_ROWS],
        share=_share,
        counts=_counts(audit),
        fails=[v for v in audit.verdicts if v.result == "fails"],
        faults=[(v, f, FAULTS[f.code][1]) for v in audit.verdicts for f in v.faults],
        not_shown=[v for v in audit.verdicts if v.lacks],
        in_sums=_counted(audit, lambda ended: ended.contributors),
        drawn_for=_counted(audit, lambda ended: ended.drawn),
        curves=curves_picture(audit.silos),
        sums=sums_picture(audit),
        beside=beside,
        of=of,
        versions=_versions(),
    )


def tables(audit: Audit) -> dict[str, str]:
    """CSV files by name: verdicts, faults, silos, rounds, and the curves of epsilon."""
    silos = [
        {
            "silo": s.name,
            "population": s.population,
            "unit": s.unit,
            "charges": s.charges,
            "planned": s.planned,
            "lost": s.lost,
            "charges_before": s.before,
            "delta": s.lifetime.delta,
            "epsilon_published": s.lifetime.published,
            "epsilon_pld": s.lifetime.pld,
            "epsilon_prv": s.lifetime.prv,
            "epsilon_rdp": s.lifetime.rdp,
            "epsilon_signed": s.claimed,
            "run_claims": None if s.run is None else s.run.published,
            "against_the_cap": s.counted,
            "cap": s.cap,
            "entries": s.entries,
            "head": s.head,
        }
        for s in audit.silos
    ]
    return {
        "verdicts.csv": _csv(
            {"claim": v.claim, "result": v.result, "sentence": v.sentence}
            for v in audit.verdicts
        ),
        "faults.csv": _csv(
            {"claim": v.claim, "fault": f.code, "where": f.where, "what": f.what}
            for v in audit.verdicts
            for f in v.faults
        ),
        "silos.csv": _csv(silos),
        "rounds.csv": _csv(
            {
                "round": r.round,
                "outcome": r.outcome,
                "drawn": " ".join(r.drawn),
                "contributors": " ".join(r.contributors),
                "signers": r.signers,
                "state": r.state,
            }
            for r in audit.rounds
        ),
        "curves.csv": _csv(
            {"silo": s.name, "charges": charges, "epsilon": epsilon}
            for s in audit.silos
            for charges, epsilon in s.curve
        ),
    }


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    listed = list(rows)
    out = io.StringIO()
    if listed:
        writer = csv.DictWriter(out, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return out.getvalue()


def _share(silo: SiloFacts) -> float:
    """How much of its cap a silo has used, from 0 on; 0 where it has none."""
    if silo.cap is None:
        return 0.0
    spent = silo.lifetime.published if silo.counted is None else silo.counted
    return 1.0 if math.isinf(spent) else spent / silo.cap


def _counts(audit: Audit) -> dict[str, int]:
    results = [verdict.result for verdict in audit.verdicts]
    outcomes = [ended.outcome for ended in audit.rounds]
    return {
        "claims": len(CLAIMS),
        "holds": results.count("holds"),
        "fails": results.count("fails"),
        "not_shown": results.count("not shown"),
        "released": outcomes.count("released"),
        "skipped": outcomes.count("skipped"),
        "unknown": outcomes.count("unknown"),
    }


def _counted(
    audit: Audit, whom: Callable[[RoundFacts], Iterable[str]]
) -> dict[str, int]:
    """Of how many rounds each silo is one of these."""
    found = {silo.name: 0 for silo in audit.silos}
    for ended in audit.rounds:
        for name in whom(ended):
            found[name] = found.get(name, 0) + 1
    return found


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}


def _epsilon(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return "unbounded" if math.isinf(value) else f"{value:.4g}"


def _delta(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")
