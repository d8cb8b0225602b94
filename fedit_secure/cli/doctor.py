"""`fedit doctor`: would it work, and what is to be done if it wouldn't."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import TableFormat, TableFormatOption, note, show


def doctor(
    config: Annotated[
        Path, typer.Argument(help="A silo.yaml or an aggregator.yaml.")
    ] = Path("silo.yaml"),
    offline: Annotated[
        bool, typer.Option("--offline", help="Don't look at the network.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Don't read the base model.")
    ] = False,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Look at everything that serving needs, and say how to fix what doesn't do.

    Nothing is changed, charged or sent, and no record is tuned on; it works before there is
    a charter and beside a running daemon. Ends with status 0 unless something fails, else
    with the first failure's.
    """
    from fedit_secure.cli.diagnosis.checks import Case, exit_status, go_through
    from fedit_secure.cli.diagnosis.lists import AGGREGATOR, silo_checks
    from fedit_secure.cli.diagnosis.model import Trial
    from fedit_secure.config import role_of

    role = role_of(config)
    case, trial, findings = Case(config, role, offline=offline), Trial(), []
    checks = silo_checks(trial) if role == "silo" else AGGREGATOR
    try:
        for finding in go_through(checks, case, quick=quick):
            note(f"{finding.result} {finding.check}")
            findings.append(finding)
    finally:
        trial.close()
    results = [finding.result for finding in findings]
    counts = {r.lower(): results.count(r) for r in ("PASS", "WARN", "FAIL", "SKIP")}
    rows = [
        {"check": f.check, "result": f.result, "found": f.found, "fix": f.fix}
        for f in findings
    ]
    show({"file": config, "role": role, **counts}, format, {"findings": rows})
    raise typer.Exit(exit_status(findings))
