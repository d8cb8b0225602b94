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
    """Read every record; report counts, duplicates, persons and cuts.

    Nothing of it leaves the silo: it is printed here, and neither sent nor kept. It is
    derived from the records without any privacy, so treat it like them. Without a
    charter it reports what can be known without one.
    """
    from fedit_secure.cli.data_facts import data_facts, duplicates_table, persons_table
    from fedit_secure.config import load_silo_config
    from fedit_secure.federation.charter import Charter
    from fedit_secure.tuning.job import DataSource
    from fedit_secure.tuning.records import load_records

    loaded = load_silo_config(config)
    source = DataSource.model_validate(loaded.data.model_dump())
    records = load_records(source)
    charter = Charter.load(loaded.charter) if loaded.charter.exists() else None
    tables = {
        "duplicates": duplicates_table(records),
        "persons_by_records": persons_table(loaded, records),
    }
    show(data_facts(loaded, charter, records), format, tables)
