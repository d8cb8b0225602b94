"""`fedit data`: a silo's records, looked at where they are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import (
    FormatOption,
    OutputFormat,
    TableFormat,
    TableFormatOption,
    show,
)

app = typer.Typer(help="A silo's own records.", no_args_is_help=True)


class Scheme(StrEnum):
    """How rows are shared among silos."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    SHARDS = "shards"
    CATEGORY = "category"
    NATURAL = "natural"


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


@app.command("split")
def split(
    file: Annotated[
        Path, typer.Argument(help="Records: .json, .jsonl, .csv, .parquet or a folder.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for one folder a silo.")
    ],
    silos: Annotated[
        int, typer.Option(min=2, help="How many; natural makes one for each value.")
    ] = 4,
    scheme: Annotated[
        Scheme, typer.Option(help="How the rows are shared.")
    ] = Scheme.DIRICHLET,
    column: Annotated[
        str, typer.Option(help="The column that rows are told apart by.")
    ] = "category",
    alpha: Annotated[
        float, typer.Option(help="Of dirichlet: the smaller, the less alike.", min=1e-3)
    ] = 0.5,
    least: Annotated[
        int, typer.Option(help="Rows that every silo has at least.", min=1)
    ] = 1,
    held_out: Annotated[
        int, typer.Option(help="Rows that no silo gets, of every value.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Decides every draw.", min=0)] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Draw who holds what: a file .svg or .png.")
    ] = None,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Share a data set among silos, to simulate a federation with it.

    iid: equal parts at random. dirichlet: of each value, shares drawn from Dir(alpha).
    shards: sorted by value, two pieces a silo. category: every value whole to one silo.
    natural: a silo for each value. Nothing is overwritten.
    """
    from fedit_secure.cli.budget_picture import require_drawable
    from fedit_secure.cli.splitting import split_rows, split_table, write_split

    if picture is not None:
        require_drawable(picture)
    shared = split_rows(
        file,
        scheme.value,
        silos,
        column=column,
        alpha=alpha,
        least=least,
        hold_out=held_out,
        seed=seed,
    )
    write_split(shared, output)
    if picture is not None:
        from fedit_secure.cli.split_picture import draw_split

        draw_split(shared, picture)
    facts = {
        "folder": output,
        "scheme": scheme.value,
        "seed": seed,
        "rows": len(shared.rows),
        "held_out": len(shared.held_out),
    }
    show(facts, format, {"silos": split_table(shared)})
