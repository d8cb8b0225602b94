"""`fedit merge`: an adapter and its base model become one model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show


class SavedPrecision(StrEnum):
    """Of the weights that are written."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def merge(
    adapter: Annotated[
        Path, typer.Argument(help="A PEFT folder, such as a run's adapter/.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to be made.")
    ],
    base: Annotated[
        str | None,
        typer.Option(help="Folder or hub name; default: what the adapter names."),
    ] = None,
    charter: Annotated[
        Path | None,
        typer.Option(help="It names the base model's digest; default: the run's own."),
    ] = None,
    precision: Annotated[
        SavedPrecision, typer.Option(help="Of the weights that are written.")
    ] = SavedPrecision.FLOAT32,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier merge.")
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Merge an adapter into its base model, for programs that don't know PEFT.

    The folder opens with transformers' AutoModelForCausalLM and AutoTokenizer and answers
    as base model and adapter do together. It holds fedit-merge.json, which names
    both by their digests.
    """
    from fedit_secure.errors import ConfigError
    from fedit_secure.evaluation.merge import (
        Merge,
        agreed_digest,
        agreed_stops,
        charter_of_run,
        refuse_output,
    )
    from fedit_secure.evaluation.merge import merge as merged
    from fedit_secure.tuning.base_model import resolve_base_model
    from fedit_secure.tuning.saved_adapter import read_peft_adapter

    saved = read_peft_adapter(adapter)
    name = base or saved.base_model
    if name is None:
        raise ConfigError(f"{adapter}: names no base model: give --base")
    charter = charter or charter_of_run(adapter)
    digest, folder = agreed_digest(charter, saved), resolve_base_model(name)
    what = Merge(
        folder,
        saved,
        output,
        digest,
        precision=precision.value,
        stops=agreed_stops(charter, folder),
        force=force,
    )
    refuse_output(what)
    if digest is None:
        note(
            "no charter says which base model is the right one: only the adapter's "
            "tensors were held against it"
        )
    told = merged(what)
    show({"merged": str(output)} | told, format)
