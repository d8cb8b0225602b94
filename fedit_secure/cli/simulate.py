"""`fedit simulate` and `fedit demo`: whole federations on one machine."""

from __future__ import annotations

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


def simulate(
    config: Annotated[
        Path, typer.Argument(help="A simulation.yaml, as `fedit data split` writes it.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the adapters.")
    ] = None,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Run a whole federation in one process.

    Protocol, tuning and ledgers are the daemons' own; only the network is left out.
    Killed, it goes on after its last certified round when it is started again.
    """
    from fedit_secure.cli.simulated import simulated_facts
    from fedit_secure.config import load_simulation, misfits_of

    options = {} if output is None else {"output": output.absolute()}
    with misfits_of(config):
        facts, rows = simulated_facts(load_simulation(config, options))
    show(facts, format, {"silos_by_round": rows})


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Your own records instead of synthetic ones.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A base model, folder or hub name.")
    ] = None,
    silos: Annotated[int, typer.Option(help="How many silos.", min=3)] = 4,
    rounds: Annotated[int, typer.Option(help="How many rounds.", min=1)] = 3,
    epsilon: Annotated[float, typer.Option(help="Each silo's budget.", min=0.01)] = 8.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to keep; default: new."),
    ] = None,
    seed: Annotated[int, typer.Option(help="For the data and the first adapter.")] = 0,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Watch a whole federation at work on this machine."""
    from fedit_secure.demo.run import main

    main(
        data=data,
        model=model,
        silos=silos,
        rounds=rounds,
        epsilon=epsilon,
        output=output,
        seed=seed,
        as_json=format is OutputFormat.JSON,
    )
