"""`--columns`: how a file's columns are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedit_secure.errors import ConfigError

if TYPE_CHECKING:
    from fedit_secure.tuning.job import ColumnMap

ColumnsOption = Annotated[
    str, typer.Option(help="As in instruction=question,response=answer.")
]


def columns_of(text: str) -> ColumnMap:
    """What `--columns` says; the usual names without. Raises ConfigError."""
    from fedit_secure.tuning.job import ColumnMap

    named = {}
    for part in filter(None, text.split(",")):
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if field not in ColumnMap.model_fields or not equals or not column:
            known = ", ".join(ColumnMap.model_fields)
            raise ConfigError(
                f"--columns {part!r} isn't field=column with a field of {known}"
            )
        named[field] = column
    return ColumnMap.model_validate(named)
