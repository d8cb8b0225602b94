"""`fedit audit export`: one file with the evidence of a run, for whoever wants to check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show


def export(
    config: Annotated[
        Path | None,
        typer.Argument(help="The aggregator.yaml or silo.yaml; default: that here."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the bundle.")
    ] = Path("bundle.zip"),
    run: Annotated[
        Path | None,
        typer.Option(help="The run folder, if it isn't in the state folder."),
    ] = None,
    cards: Annotated[
        Path | None, typer.Option(help="A folder with the other parties' cards.")
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="A folder with claims that silos gave you.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Write the evidence of the charter's run into one signed file.

    From an aggregator: all that its run folder holds up to the last certified round,
    while the run goes on or after it. From a silo: its own ledger and what it claims,
    what it saw of the others, and its approval. No record, update or key is in either.
    """
    from fedit_secure.cli.exported import export_run

    facts, lacks = export_run(
        config or _here(), output, run=run, cards=cards, claims=claims, replace=force
    )
    show(facts, format)
    for text in lacks:
        note(f"not in it: {text}")


def _here() -> Path:
    from fedit_secure.errors import ConfigError

    found = [p for p in map(Path, ("aggregator.yaml", "silo.yaml")) if p.is_file()]
    if len(found) != 1:
        raise ConfigError("name the aggregator.yaml or silo.yaml whose run to export")
    return found[0]
