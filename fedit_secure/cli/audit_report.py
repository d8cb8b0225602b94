"""`fedit audit report`: the audit as a page to keep, print or send."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show

_POINTS = 24  # of each silo's curve; equal plans are accounted once


def report(
    bundle: Annotated[
        Path, typer.Argument(help="The bundle: a .zip file or a folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page; replaced if it is there.")
    ] = Path("report.html"),
    csv: Annotated[
        Path | None, typer.Option(help="A folder for the tables as CSV files.")
    ] = None,
    witness: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another bundle of the run, such as a silo's own; repeatable."
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes; default: one a core.")
    ] = os.cpu_count() or 1,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Verify a bundle, and write what was found as one HTML page for people.

    The page needs no network and runs nothing. It is written whatever the verdict is;
    the command ends with status 9 if a claim fails.
    """
    from fedit_secure.audit.report import render, require_report, tables
    from fedit_secure.audit.verify import audit_bundle
    from fedit_secure.cli.audited import beside, require_passed, summary
    from fedit_secure.federation.durable import write_durably

    require_report()
    audit = audit_bundle(bundle, witnesses=witness or (), jobs=jobs, points=_POINTS)
    of, rows = beside(bundle, audit)
    write_durably(output, render(audit, rows, of).encode())
    note(f"the report is in {output}")
    if csv is not None:
        csv.mkdir(parents=True, exist_ok=True)
        for name, text in tables(audit).items():
            write_durably(csv / name, text.encode())
        note(f"its tables are in {csv}")
    if format is OutputFormat.JSON:
        show(audit.to_json() | {"report": output}, format)
    else:
        show(summary(audit) | {"report": output}, format)
    require_passed(audit)
