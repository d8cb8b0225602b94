"""Results on stdout, as a table, as JSON or as CSV; everything else on stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

_PIPE_WIDTH = 160


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


class TableFormat(StrEnum):
    """How a command prints its result if that is one table."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[
    OutputFormat, typer.Option("--format", help="Print a table, or JSON for programs.")
]
TableFormatOption = Annotated[
    TableFormat,
    typer.Option(
        "--format", help="Print a table, JSON for programs, or the rows as CSV."
    ),
]


def show(
    facts: Mapping[str, Any],
    format: OutputFormat | TableFormat,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    *,
    one_line: bool = False,
) -> None:
    """Prints facts, then tables by title; in JSON they are keys of one object.

    A table is a list of rows with equal keys. None prints as "-". `one_line` is for
    JSON that follows other lines of JSON. CSV is the rows of the only table, after a line
    of their names: without the facts, and with nothing where a value is None.
    """
    if format is TableFormat.CSV:
        (rows,) = (tables or {}).values()
        _write_csv(rows)
        return
    if format.value == OutputFormat.JSON.value:
        content = {**facts, **(tables or {})}
        indent = None if one_line else 2
        sys.stdout.write(json.dumps(content, indent=indent, default=str) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A file or a pipe has no width: a digest must not be cut to fit one.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width)
    longest = max(map(len, facts), default=0)
    for key, value in facts.items():
        # Text, because what comes from a file must not be read as markup.
        name = Text(key.replace("_", " ").ljust(longest + 2), style="bold")
        console.print(name + Text(_cell(value), style="not bold"), soft_wrap=True)
    for title, rows in (tables or {}).items():
        if not rows:
            continue
        table = Table(title=Text(title.replace("_", " ")), title_justify="left")
        for key, value in rows[0].items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            table.add_column(
                Text(key.replace("_", " ")),
                justify="right" if number else "left",
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row.values()))
        console.print(table)


def _write_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    # RFC 4180 but for the line ends, which every reader takes, and diff prefers.
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)


def show_event(round: int, party: str, phase: str, format: OutputFormat) -> None:
    """A party entered a phase: JSON on stdout, a line on a terminal, or a log entry."""
    if format is OutputFormat.JSON:
        event = {"round": round, "silo": party, "phase": phase}
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()
        return
    text = f"round {round}: {party}: {phase}" if party else f"round {round}: {phase}"
    if sys.stderr.isatty():
        note(text)
        return
    import logging

    fields = {"round": round, "silo": party, "phase": phase}
    logging.getLogger("fedit_secure.progress").info(text, extra=fields)


def note(text: str) -> None:
    """One line of progress or advice, on stderr."""
    typer.echo(text, err=True)


def problem(text: str) -> None:
    """The one sentence of an error, on stderr."""
    typer.echo(f"fedit: {text}", err=True)


def _cell(value: Any) -> str:
    if value is None or value in ((), []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(part) for part in value)
    return str(value)
