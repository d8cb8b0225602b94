"""Results on stdout, as a table or as JSON; everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[
    OutputFormat, typer.Option("--format", help="Print a table, or JSON for programs.")
]


def show(
    facts: Mapping[str, Any],
    format: OutputFormat,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    one_line: bool = False,
) -> None:
    """Prints facts, then tables by title; in JSON they are keys of one object.

    A table is a list of rows with equal keys. None prints as "-". `one_line` is for
    JSON that follows other lines of JSON.
    """
    if format is OutputFormat.JSON:
        content = {**facts, **(tables or {})}
        indent = None if one_line else 2
        sys.stdout.write(json.dumps(content, indent=indent, default=str) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    grid = Table.grid(padding=(0, 2))
    for key, value in facts.items():
        # Text, because what comes from a file must not be read as markup.
        grid.add_row(Text(key.replace("_", " "), style="bold"), Text(_cell(value)))
    console.print(grid)
    for title, rows in (tables or {}).items():
        if not rows:
            continue
        table = Table(title=Text(title.replace("_", " ")), title_justify="left")
        for key, value in rows[0].items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            table.add_column(
                Text(key.replace("_", " ")), justify="right" if number else "left"
            )
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        console.print(table)


def show_event(round: int, party: str, phase: str, format: OutputFormat) -> None:
    """A party entered a phase: a line for people, or of JSON on stdout for programs."""
    if format is OutputFormat.JSON:
        event = {"round": round, "silo": party, "phase": phase}
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
    else:
        note(f"round {round}: {party}: {phase}" if party else f"round {round}: {phase}")


def note(text: str) -> None:
    """One line of progress or advice, on stderr."""
    typer.echo(text, err=True)


def problem(text: str) -> None:
    """The one sentence of an error, on stderr."""
    typer.echo(f"fedit: {text}", err=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(part) for part in value)
    return str(value)
