"""`fedit audit leakage`: what the final adapter gives back of a silo's own records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show


def leakage(
    config: Annotated[Path, typer.Argument(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    adapter: Annotated[
        Path | None,
        typer.Option(help="A PEFT folder; default: the last certified state."),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option(help="Records of the same kind that were in no silo's data."),
    ] = None,
    secrets: Annotated[
        Path | None, typer.Option(help="Names or numbers to ask for, one a line.")
    ] = None,
    records: Annotated[
        int, typer.Option(min=1, help="Most records of each side to try.")
    ] = 200,
    prefix: Annotated[
        int, typer.Option(min=0, help="Tokens of a response that are given away.")
    ] = 5,
    length: Annotated[
        int, typer.Option(min=1, help="Tokens that must come back after them.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of records.")] = 0,
    show_text: Annotated[
        bool, typer.Option("--show-text", help="Print the passages that come back.")
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Try to get this silo's records back out of the adapter.

    Tells members from held-out records, has responses recited, asks for names. It uses
    no network. What it finds is printed here and kept in the silo's state folder, for its
    owner alone to read: it depends on the records without any privacy, so treat it like
    them. Ends with status 9 if a test found something.
    """
    # Before anything that might ask the hub is imported: a hub name means a local copy.
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from fedit_secure.audit.leakage.trial import Trial
    from fedit_secure.cli.leakage_run import (
        leakage_facts,
        leakage_tables,
        prepared,
        write_report,
    )
    from fedit_secure.config import load_silo_config
    from fedit_secure.errors import AuditFailed

    loaded = load_silo_config(config)
    ready = prepared(loaded, adapter, holdout, secrets)
    if ready.as_charged is False:
        note(
            "the records aren't those that the ledger was last charged for: the adapter "
            "may never have seen some of them"
        )
    note("reading both models' answers; nothing leaves this machine")
    result = ready.run(Trial(records, prefix, length, seed))
    report = write_report(loaded, ready, result)
    facts = leakage_facts(ready, result) | {"report": str(report)}
    show(facts, format, leakage_tables(result, format, show_text=show_text))
    if result.found:
        raise AuditFailed(
            "a test for leakage found something; what it means is said above"
        )
