"""`fedit budget inherit`: populations that share records or persons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show


def inherit(
    reason: Annotated[str, typer.Option(help="Why: it stays in the ledger.")],
    config: Annotated[Path, typer.Argument(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Take over what other populations here were charged for the same records or persons.

    The daemon mustn't run. Their charges count in this population's ledger from then on,
    under your signature.
    """
    from fedit_secure.cli.caps_table import figure
    from fedit_secure.cli.inheriting import open_estate
    from fedit_secure.config import load_silo_config

    with open_estate(load_silo_config(config)) as estate:
        if estate.missing and not yes:
            for row in estate.table():
                note(
                    f"{row['population']}: {row['records_shared']} records and "
                    f"{row['persons_shared']} persons are shared, epsilon "
                    f"{row['epsilon_spent']} at delta {row['delta']:g} is spent"
                )
            typer.confirm("Take these charges over?", abort=True, err=True)
        table = estate.table()
        ledger = estate.take_over(reason)
    facts = {
        "population": ledger.population,
        "ledger_entries": ledger.sequence,
        "ledger_head": ledger.hash.hex(),
        "epsilon_spent": figure(ledger.spent().published),
        "epsilon_cap": figure(ledger.cap_epsilon),
    }
    show(facts, format, {"inherited": table})
