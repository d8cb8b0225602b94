"""`fedit audit verify`: the verdicts on a bundle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import TableFormat, TableFormatOption, note, show


def verify(
    bundle: Annotated[
        Path, typer.Argument(help="The bundle: a .zip file or a folder.")
    ],
    witness: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another bundle of the run, such as a silo's own; repeatable."
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Is this PEFT folder the run's final adapter?")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes; default: one a core.")
    ] = os.cpu_count() or 1,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Check every claim of a run from its bundle alone: offline, without trust in us.

    Ends with status 9 if a claim fails. Compare the fifteen words with what a silo's
    operator was given: a bundle of another charter may be in perfect order. CSV is a row a
    claim, or for a claim that fails, a row a fault.
    """
    from fedit_secure.audit.verify import audit_bundle
    from fedit_secure.cli.audited import (
        adapter_row,
        findings_table,
        require_passed,
        summary,
        tables,
    )
    from fedit_secure.errors import AuditFailed

    audit = audit_bundle(bundle, witnesses=witness or (), jobs=jobs)
    extra = {} if adapter is None else adapter_row(audit, adapter)
    if format is TableFormat.JSON:
        show(audit.to_json() | extra, format)
    elif format is TableFormat.CSV:
        show({}, format, {"findings": findings_table(audit)})
    else:
        show(summary(audit) | extra, format, tables(audit))
        note("what a bundle can't show: " + " ".join(audit.believed))
    require_passed(audit)
    if extra and not extra["adapter_is_the_runs"]:
        raise AuditFailed(f"{adapter} isn't the adapter that this run ended in")
