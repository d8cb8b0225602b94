"""`fedit data`: a silo's records, looked at where they are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.columns import ColumnsOption
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
    config: Annotated[
        Path, typer.Argument(help="The silo's silo.yaml, or a file of records.")
    ] = Path("silo.yaml"),
    columns: ColumnsOption = "",
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Read every record; report counts, duplicates, persons and cuts.

    Nothing of it leaves the silo: it is printed here, and neither sent nor kept. It is
    derived from the records without any privacy, so treat it like them. Without a
    charter it reports what can be known without one.
    """
    from fedit_secure.cli.columns import columns_of
    from fedit_secure.cli.data_facts import data_facts, duplicates_table, persons_table
    from fedit_secure.config import load_silo_config
    from fedit_secure.errors import ConfigError
    from fedit_secure.federation.charter import Charter
    from fedit_secure.tuning.job import DataSource
    from fedit_secure.tuning.records import load_records

    charter, model = None, None
    if config.suffix in (".yaml", ".yml"):
        if columns:
            raise ConfigError("--columns: the silo.yaml says them already")
        loaded = load_silo_config(config)
        source = DataSource.model_validate(loaded.data.model_dump())
        charter = Charter.load(loaded.charter) if loaded.charter.exists() else None
        model = loaded.model
    else:
        source = DataSource(path=str(config), columns=columns_of(columns))
    records = load_records(source)
    tables = {
        "duplicates": duplicates_table(records),
        "persons_by_records": persons_table(source.columns, records),
    }
    show(data_facts(source, model, charter, records), format, tables)


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
    columns: ColumnsOption = "",
    model: Annotated[
        str | None,
        typer.Option(help="A base model: also write a simulation.yaml to run."),
    ] = None,
    template: Annotated[
        str, typer.Option(help="Of that run; chat: the model's own.")
    ] = "alpaca",
    rounds: Annotated[int, typer.Option(help="Of that run.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Of each silo, a round.", min=1)] = 8,
    epsilon: Annotated[
        float, typer.Option(help="Each silo's privacy budget in that run.", min=0.01)
    ] = 8.0,
    without_dp: Annotated[
        bool, typer.Option("--without-dp", help="That run has no privacy of its own.")
    ] = False,
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
    natural: a silo for each value. Nothing is overwritten. With --model, `fedit simulate`
    of the simulation.yaml beside them then tunes that model on them.
    """
    from fedit_secure.cli.budget_picture import require_drawable
    from fedit_secure.cli.columns import columns_of
    from fedit_secure.cli.drafted_simulation import (
        Planned,
        require_free,
        write_simulation,
    )
    from fedit_secure.cli.splitting import split_rows, split_table, write_split
    from fedit_secure.tuning.examples import require_template
    from fedit_secure.tuning.job import DataSource
    from fedit_secure.tuning.records import load_records

    named = columns_of(columns)
    require_template(template)
    require_free(output)
    if columns or model is not None:  # then every row has to be a record
        load_records(DataSource(path=str(file), columns=named))
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
    if model is not None:
        privacy = None if without_dp else epsilon
        planned = Planned(model, template, rounds, steps, privacy)
        facts["simulation"] = write_simulation(shared, output, named, planned)
    show(facts, format, {"silos": split_table(shared)})
