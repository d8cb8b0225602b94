"""`fedit`: parses, calls one function, and turns every error into an exit status.

Only Typer is imported here: each command imports what it needs when it runs, so that
`fedit --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from fedit_secure.cli import (
    aggregator,
    audit,
    budget,
    charter,
    chat,
    config,
    data,
    doctor,
    evaluate,
    judge,
    merge,
    silo,
    simulate,
)
from fedit_secure.cli import run as run_commands
from fedit_secure.cli.output import FormatOption, OutputFormat, note, problem, show
from fedit_secure.errors import ConfigError, FeditError

_BUG = 5
_INTERRUPTED = 130
# The extra [silo]: an aggregator or a coordinator may do without them.
_EXTRA = ("torch", "transformers", "peft", "opacus", "datasets", "pyarrow", "httpx2")

app = typer.Typer(
    name="fedit",
    help=(
        "Federated instruction tuning across organisations, with differential privacy "
        "and secure aggregation."
    ),
    epilog=(
        "Exit status: 0 ok, 1 run failed, 2 cannot connect or authenticate, 3 timeout, "
        "4 bad arguments or configuration, 5 our bug, 6 policy refused, 7 budget "
        "exhausted, 8 quorum lost, 9 audit failed, 10 ledger lost."
    ),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    # Plain help: importing the rich one would double the time that --help takes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(silo.app, name="silo")
app.add_typer(aggregator.app, name="aggregator")
app.add_typer(charter.app, name="charter")
app.add_typer(data.app, name="data")
app.add_typer(budget.app, name="budget")
app.add_typer(run_commands.app, name="run")
app.add_typer(audit.app, name="audit")
app.add_typer(config.app, name="config")
app.command("simulate")(simulate.simulate)
app.command("demo")(simulate.demo)
app.command("chat")(chat.chat)
app.command("evaluate")(evaluate.evaluate)
app.command("judge")(judge.judge)
app.command("merge")(merge.merge)
app.command("doctor")(doctor.doctor)


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Takes the options of every command; `--debug` may stand anywhere."""


@app.command("version")
def version(format: FormatOption = OutputFormat.TABLE) -> None:
    """Show the versions that results depend on."""
    from importlib import metadata

    packages = (
        "fedit-secure",
        "numpy",
        "cryptography",
        "dp-accounting",
        "torch",
        "opacus",
    )
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    show(found, format)


def run() -> None:
    """The `fedit` command."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit status; raises nothing."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"]
    if not sys.stderr.isatty():
        # Bars are for a terminal; a log takes lines. Read by huggingface_hub.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Its own lines aren't JSON, and strangers can make it write as many as they like.
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if debug else "NONE")
    try:
        with warnings.catch_warnings():
            if not debug:
                # What other packages will change one day is no operator's business.
                warnings.simplefilter("ignore")
            status = app(rest, prog_name="fedit", standalone_mode=False)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001
        return _ended(error, debug)
    return status if isinstance(status, int) else 0


def _ended(error: BaseException, debug: bool) -> int:
    """Says in one sentence what ended a command; returns the exit status for it."""
    if debug:
        import traceback

        traceback.print_exception(error)
    match error:
        case SystemExit(code=code):
            # A daemon that was told to stop has drained, and says so with status 0.
            return code if isinstance(code, int) else 0
        case BrokenPipeError():
            # The reader of our output is gone, as in `fedit charter show | head`.
            sys.stderr.close()
            return 0
        case FeditError():
            problem(str(error))
            return error.exit_status
        case TyperException():
            text = error.format_message()
            # A command without its subcommand shows its help.
            (note if text.startswith("Usage: ") else problem)(text)
            # Typer's own status would be 2, which says "cannot connect" here.
            return ConfigError.exit_status
        case KeyboardInterrupt() | typer.Abort():
            problem("interrupted")
            return _INTERRUPTED
        case ModuleNotFoundError(name=str(name)) if name.split(".")[0] in _EXTRA:
            problem(f"this needs {name}; run pip install 'fedit-secure[silo]'")
            return ConfigError.exit_status
        case _:
            text = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
            hint = "" if debug else "; run it again with --debug for the traceback"
            problem(f"{text} (this is a bug of fedit{hint})")
            return _BUG


if __name__ == "__main__":
    run()
