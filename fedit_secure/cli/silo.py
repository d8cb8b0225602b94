"""`fedit silo`: one organisation's side of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show, show_event

app = typer.Typer(
    help="One organisation's silo: keys, daemon, state.", no_args_is_help=True
)

ConfigArgument = Annotated[Path, typer.Argument(help="The silo's silo.yaml.")]


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits and dashes.")],
    contact: Annotated[str, typer.Option(help="How other operators reach this one.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where to put it all; default: the name.")
    ] = None,
    population: Annotated[
        str | None,
        typer.Option(
            help="Whom the records are about; the ledger is kept per population."
        ),
    ] = None,
    tell_records: Annotated[
        int | None, typer.Option(help="Tell the number of records on the card.", min=1)
    ] = None,
    tell_persons: Annotated[
        int | None,
        typer.Option(
            help="Tell the number of persons on the card; see fedit data check.", min=1
        ),
    ] = None,
    names_persons: Annotated[
        bool,
        typer.Option(
            "--names-persons",
            help="The data has a column that says whom each record is about.",
        ),
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Make a silo's keys, public card and starter files."""
    from fedit_secure.cli.starter import POLICY, SILO
    from fedit_secure.cli.starting import start_folder

    files = {"silo.yaml": SILO.format(name=name), "policy.yaml": POLICY}
    identity = start_folder(
        folder or Path(name),
        files,
        name=name,
        role="silo",
        contact=contact,
        population=population,
        records=tell_records,
        persons=tell_persons,
        names_persons=names_persons,
    )
    note("the keys stay here; give the card to the coordinator")
    show({"name": name, "card": identity.card_path, "files": list(files)}, format)


@app.command("serve")
def serve(
    config: ConfigArgument = Path("silo.yaml"),
    aggregator: Annotated[
        str | None, typer.Option(help="host:port instead of the charter's address.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Cores for tuning.")] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Take part in the run of the approved charter."""
    import asyncio

    from fedit_secure.cli.logs import log_to_stderr
    from fedit_secure.cli.service_manager import ServiceManager
    from fedit_secure.config import load_silo_config
    from fedit_secure.silo.serve import serve as serve_silo

    given: dict[str, Any] = {"aggregator.address": aggregator, "threads": threads}
    options = {key: value for key, value in given.items() if value is not None}
    loaded = load_silo_config(config, options)
    log_to_stderr(loaded.log_level)
    manager = ServiceManager.of_environment()

    def tell(round: int, phase: str) -> None:
        manager.status(f"round {round}: {phase}")
        show_event(round, loaded.name, phase, format)

    state = asyncio.run(manager.watch(serve_silo(loaded, tell, manager.stage)))
    end = {"run": "ended", "state": state.digest().hex()}
    show(end, format, one_line=True)


@app.command("status")
def status(
    config: ConfigArgument = Path("silo.yaml"),
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show charter, rounds and privacy budget."""
    from fedit_secure.cli.standing import silo_facts
    from fedit_secure.config import load_silo_config

    show(silo_facts(load_silo_config(config)), format)
