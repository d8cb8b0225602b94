"""`fedit run`: look at a run from its daemon's machine, and end it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import (
    FormatOption,
    OutputFormat,
    TableFormat,
    TableFormatOption,
    note,
    show,
)

app = typer.Typer(
    help="Watch a run from its daemon's machine, and end it.", no_args_is_help=True
)

ConfigArgument = Annotated[
    Path, typer.Argument(help="The silo.yaml or aggregator.yaml of the daemon.")
]


@app.command("watch")
def watch(
    config: ConfigArgument,
    once: Annotated[
        bool, typer.Option("--once", help="Show how it stands, and end.")
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show a daemon's run until it ends: a live table, or a line a change.

    It reads the daemon's status file, so no page has to be on. JSON is one snapshot a line,
    at every change.
    """
    from fedit_secure.cli.run_watch import watch_state
    from fedit_secure.cli.runs import state_of

    watch_state(state_of(config), once=once, as_json=format is OutputFormat.JSON)


@app.command("list")
def list_runs(
    config: ConfigArgument, format: TableFormatOption = TableFormat.TABLE
) -> None:
    """Show every run that this silo or aggregator has taken part in."""
    from fedit_secure.cli.runs import runs_table

    show({}, format, {"runs": runs_table(config)})


@app.command("stop")
def stop(
    config: Annotated[Path, typer.Argument(help="The aggregator.yaml.")] = Path(
        "aggregator.yaml"
    ),
    reason: Annotated[
        str, typer.Option(help="Why. Every silo's operator reads it.")
    ] = "",
    now: Annotated[
        bool, typer.Option("--now", help="Don't wait for the end of the round.")
    ] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Let a stopped run go on again.")
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """End the run after its present round, or at once: for the aggregator's operator.

    The silos are told why and end; every certified round and every charge stays. The run
    goes on no more until the order is withdrawn and the aggregator is started again.
    """
    from fedit_secure.cli.runs import order_stop, withdraw_stop

    if withdraw:
        facts = withdraw_stop(config)
        note("start the aggregator, and then the silos")
    else:
        facts = order_stop(config, reason, at_once=now)
    show(facts, format)
