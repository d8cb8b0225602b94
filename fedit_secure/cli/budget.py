"""`fedit budget`: what this silo's records have cost so far."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, show

app = typer.Typer(
    help="What this silo's records have cost so far.", no_args_is_help=True
)


@app.command("show")
def show_budget(
    config: Annotated[Path, typer.Argument(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show the privacy budget spent and left, by the ledger."""
    from fedit_secure.cli.standing import budget_facts, charges_table
    from fedit_secure.config import load_silo_config

    loaded = load_silo_config(config)
    show(budget_facts(loaded), format, {"charges": charges_table(loaded)})
