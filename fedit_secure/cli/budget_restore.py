"""`fedit budget restore`: a ledger after its disk was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show
from fedit_secure.errors import ConfigError


def restore(
    copy: Annotated[
        Path | None,
        typer.Argument(
            help="The aggregator's copy, ledgers/NAME.jsonl in its run folder (with "
            "NAME.head beside it), or a bundle."
        ),
    ] = None,
    config: Annotated[Path, typer.Option(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    charge_full_cap: Annotated[
        bool,
        typer.Option(
            "--charge-full-cap", help="Nobody has a copy: count the whole cap as spent."
        ),
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why the cap is charged: it stays in the ledger.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Put the privacy ledger back after its disk was lost.

    The daemon mustn't run. The silo takes part again from the next charter epoch on:
    what it had signed under this one is lost with its disk.
    """
    from fedit_secure.cli.caps_table import figure
    from fedit_secure.cli.restoring import restore_by_charging, restore_copy
    from fedit_secure.config import load_silo_config

    if (copy is None) != charge_full_cap:
        raise ConfigError("give either a copy of the ledger or --charge-full-cap")
    if charge_full_cap and not reason:
        raise ConfigError("--charge-full-cap needs a --reason")
    loaded = load_silo_config(config)
    if copy is not None:
        done = restore_copy(loaded, copy)
    else:
        if not yes:
            note("no further run with differential privacy fits after this")
            typer.confirm("Count the whole cap as spent?", abort=True, err=True)
        done = restore_by_charging(loaded, reason)
    ledger, spent = done.ledger, done.ledger.spent()
    show(
        {
            "population": ledger.population,
            "entries_before": done.before,
            "ledger_entries": ledger.sequence,
            "ledger_head": ledger.hash.hex(),
            "epsilon_spent": figure(spent.published),
            "epsilon_cap": figure(ledger.cap_epsilon),
        },
        format,
    )
    if ledger.sequence == done.before:
        note("every entry was here already; nothing has changed")
    else:
        note("restored; this silo takes part again from the next charter epoch on")
