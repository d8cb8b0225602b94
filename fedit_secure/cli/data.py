"""`fedit data`: a silo's records, looked at where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, show

app = typer.Typer(help="A silo's own records.", no_args_is_help=True)


@app.command("check")
def check(
    config: Annotated[Path, typer.Argument(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Read every record; report counts, repeats and cuts."""
    from fedit_secure.cli.data_facts import data_facts, repeats_table
    from fedit_secure.config import load_silo_config
    from fedit_secure.tuning.job import DataSource
    from fedit_secure.tuning.records import load_records

    loaded = load_silo_config(config)
    source = DataSource.model_validate(loaded.data.model_dump())
    records = load_records(source)
    facts = data_facts(loaded, records)
    show(facts, format, {"repeats": repeats_table(records)})
