"""`fedit silo`: one organisation's side of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedit_secure.cli.draining import WaitOption
from fedit_secure.cli.encrypting import PassphraseOption, RemoveOption
from fedit_secure.cli.output import FormatOption, OutputFormat, note, show, show_event

app = typer.Typer(
    help="One organisation's silo: keys, daemon, state.", no_args_is_help=True
)

FinishOption = Annotated[
    bool, typer.Option("--finish", help="Put the new identity in use.")
]
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
    passphrase_file: PassphraseOption = None,
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
        passphrase_file=passphrase_file,
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


@app.command("personal")
def personal(
    config: ConfigArgument = Path("silo.yaml"),
    restore: Annotated[
        Path | None, typer.Option(help="Take this earlier file of the silo's own B.")
    ] = None,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="Begin anew with the global state's B.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show the silo's own adapter and B (aggregation fedsa), or put a lost B right.

    With --restore or --start-over the daemon mustn't run. What was charged stays charged.
    """
    from fedit_secure.cli import personal_part
    from fedit_secure.config import load_silo_config
    from fedit_secure.errors import ConfigError

    loaded = load_silo_config(config)
    if restore is not None and start_over:
        raise ConfigError("give either --restore or --start-over")
    if restore is not None:
        show(personal_part.restore(loaded, restore), format)
        return
    if not start_over:
        show(personal_part.personal_facts(loaded), format)
        return
    facts = personal_part.personal_facts(loaded)
    if not yes:
        note(f"the B that counts now is {facts['own_b'] or 'none'}")
        typer.confirm("Begin anew without it?", abort=True, err=True)
    show(personal_part.start_over(loaded), format)


@app.command("encrypt")
def encrypt(
    config: ConfigArgument = Path("silo.yaml"),
    passphrase_file: PassphraseOption = None,
    remove: RemoveOption = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Encrypt the silo's keys, change their passphrase, or remove it."""
    from fedit_secure.cli.encrypting import encrypt_keys
    from fedit_secure.config import load_silo_config

    encrypt_keys(load_silo_config(config), passphrase_file, remove, format)


@app.command("rotate")
def rotate(
    config: ConfigArgument = Path("silo.yaml"),
    finish: FinishOption = False,
    tell_records: Annotated[
        int | None, typer.Option(help="Another number of records on the card.", min=1)
    ] = None,
    tell_persons: Annotated[
        int | None, typer.Option(help="Another number of persons on the card.", min=1)
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Replace the silo's keys and card by new ones.

    First it makes an identity beside the one in use, whose card goes into the next charter.
    Once that is approved here, --finish enters the change in the ledger, signed by the old
    key, and puts the new identity in use; the daemon has to be stopped.
    """
    from fedit_secure.cli.rotating import rotate as rotate_keys
    from fedit_secure.config import load_silo_config

    rotate_keys(load_silo_config(config), finish, format, tell_records, tell_persons)


@app.command("drain")
def drain(
    config: ConfigArgument = Path("silo.yaml"),
    wait: WaitOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Let the silo's daemon end without losing anything.

    It finishes a tuning that is charged, and a release until its round is over; it takes no
    further round, and ends with status 0. SIGTERM ends it at once instead.
    """
    from fedit_secure.cli.draining import drain as drain_daemon
    from fedit_secure.config import load_silo_config

    show(drain_daemon(load_silo_config(config).state, wait), format)
