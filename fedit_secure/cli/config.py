"""`fedit config`: what a configuration file comes to."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import TableFormat, show

app = typer.Typer(help="What a configuration comes to.", no_args_is_help=True)


class ConfigFormat(StrEnum):
    """How the settings are printed; YAML is a whole file of them."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    YAML = "yaml"


@app.command("show")
def show_config(
    file: Annotated[
        Path,
        typer.Argument(
            help="A silo.yaml, aggregator.yaml, policy.yaml, plan.yaml, simulation.yaml."
        ),
    ] = Path("silo.yaml"),
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    kind: Annotated[
        str | None, typer.Option(help="Which of them it is, where its keys don't tell.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="As an option of a command would; repeat.",
        ),
    ] = None,
    format: Annotated[
        ConfigFormat,
        typer.Option(
            "--format", help="Print a table, JSON, CSV, or a whole file as YAML."
        ),
    ] = ConfigFormat.TABLE,
) -> None:
    """Show every value in effect, defaults included, and where it comes from.

    An option wins over a FEDIT_SECTION__KEY variable, that over the file, and that over the
    default. Variables are for silo.yaml and aggregator.yaml alone.
    """
    from fedit_secure.config import KINDS, kind_of, settings_in_effect
    from fedit_secure.errors import ConfigError

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind should be one of {', '.join(KINDS)}, not {kind!r}")
    if format is ConfigFormat.YAML and origin:
        raise ConfigError(
            "--origin is for a table, JSON or CSV: YAML has no room for it"
        )
    found = kind or kind_of(file)
    fitted, settings = settings_in_effect(file, found, _options(set or []))
    if format is ConfigFormat.YAML:
        import yaml

        content = fitted.model_dump(mode="json")
        typer.echo(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True), nl=False
        )
        return
    rows = [
        {"key": each.key, "value": each.value}
        | ({"origin": each.origin} if origin else {})
        for each in settings
    ]
    facts = {"file": file, "kind": found}
    show(facts, TableFormat(format.value), {"settings": rows})


def _options(pairs: list[str]) -> dict[str, str]:
    from fedit_secure.errors import ConfigError

    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set wants KEY=VALUE, not {pair!r}")
        found[key] = text
    return found
