"""`fedit aggregator`: the party that sees sums only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.draining import WaitOption
from fedit_secure.cli.encrypting import PassphraseOption, RemoveOption
from fedit_secure.cli.output import FormatOption, OutputFormat, note, show, show_event

app = typer.Typer(
    help="The aggregator, which sees sums only: keys, service, state.",
    no_args_is_help=True,
)

FinishOption = Annotated[
    bool, typer.Option("--finish", help="Put the new identity in use.")
]
ConfigArgument = Annotated[Path, typer.Argument(help="The aggregator.yaml.")]


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="Lowercase letters, digits and dashes.")],
    contact: Annotated[str, typer.Option(help="How operators reach this one.")],
    folder: Annotated[
        Path | None, typer.Option(help="Where to put it all; default: the name.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Make the aggregator's keys, card and starter file."""
    from fedit_secure.cli.starter import AGGREGATOR
    from fedit_secure.cli.starting import start_folder

    files = {"aggregator.yaml": AGGREGATOR}
    identity = start_folder(
        folder or Path(name),
        files,
        name=name,
        role="aggregator",
        contact=contact,
        passphrase_file=passphrase_file,
    )
    note("the keys stay here; give the card to the coordinator")
    show({"name": name, "card": identity.card_path, "files": list(files)}, format)


@app.command("serve")
def serve(
    config: ConfigArgument = Path("aggregator.yaml"),
    listen: Annotated[
        str | None, typer.Option(help="host:port instead of the file's address.")
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Bring the silos through all rounds of the run."""
    import asyncio

    from fedit_secure.aggregator.events import Event
    from fedit_secure.aggregator.serve import serve as serve_aggregator
    from fedit_secure.cli.logs import log_to_stderr
    from fedit_secure.cli.service_manager import ServiceManager
    from fedit_secure.config import load_aggregator_config

    loaded = load_aggregator_config(config, {"listen": listen} if listen else {})
    log_to_stderr(loaded.log_level)
    manager = ServiceManager.of_environment()

    def tell(event: Event) -> None:
        if not event.silo:  # its own phase, and not where one of the silos is
            manager.status(f"round {event.round}: {event.phase}")
        show_event(event.round, event.silo, event.phase, format)

    state = asyncio.run(manager.watch(serve_aggregator(loaded, tell, manager.stage)))
    end = {"run": "ended", "state": state.digest().hex()}
    show(end, format, one_line=True)


@app.command("status")
def status(
    config: ConfigArgument = Path("aggregator.yaml"),
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show charter, approvals and rounds done."""
    from fedit_secure.cli.standing import aggregator_facts
    from fedit_secure.config import load_aggregator_config

    show(aggregator_facts(load_aggregator_config(config)), format)


@app.command("encrypt")
def encrypt(
    config: ConfigArgument = Path("aggregator.yaml"),
    passphrase_file: PassphraseOption = None,
    remove: RemoveOption = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Encrypt the aggregator's keys, change their passphrase, or remove it."""
    from fedit_secure.cli.encrypting import encrypt_keys
    from fedit_secure.config import load_aggregator_config

    encrypt_keys(load_aggregator_config(config), passphrase_file, remove, format)


@app.command("rotate")
def rotate(
    config: ConfigArgument = Path("aggregator.yaml"),
    finish: FinishOption = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Replace the aggregator's keys and card by new ones.

    First it makes an identity beside the one in use, whose card goes into the next charter.
    With that charter here, --finish puts the new identity in use.
    """
    from fedit_secure.cli.rotating import rotate as rotate_keys
    from fedit_secure.config import load_aggregator_config

    rotate_keys(load_aggregator_config(config), finish, format)


@app.command("drain")
def drain(
    config: ConfigArgument = Path("aggregator.yaml"),
    wait: WaitOption = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Let the aggregator's daemon end without losing anything.

    It finishes an attempt at a release that is open, begins no further one, and ends with
    status 0; started again, the run goes on. SIGTERM ends it at once instead.
    """
    from fedit_secure.cli.draining import drain as drain_daemon
    from fedit_secure.config import load_aggregator_config

    show(drain_daemon(load_aggregator_config(config).state, wait), format)
