"""`fedit simulate` and `fedit demo`: whole federations on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, show


def simulate(
    config: Annotated[Path, typer.Argument(help="A simulation.yaml.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the adapters.")
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Run a whole federation in one process.

    Protocol, tuning and ledgers are the daemons' own; only the network is left out.
    """
    from fedit_secure.cli.simulated import simulated_facts
    from fedit_secure.config import load_simulation, misfits_of

    options = {} if output is None else {"output": output.absolute()}
    with misfits_of(config):
        facts, silos = simulated_facts(load_simulation(config, options))
    show(facts, format, {"silos": silos})


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
