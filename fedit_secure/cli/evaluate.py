"""`fedit evaluate`: base, adapters and merged models on the same records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.columns import ColumnsOption
from fedit_secure.cli.contending import (
    AdapterOption,
    CharterOption,
    MergedOption,
    ModelOption,
)
from fedit_secure.cli.output import TableFormat, TableFormatOption


def evaluate(
    data: Annotated[
        str | None, typer.Argument(help="Records: file, `datasets` folder or hub name.")
    ] = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    merged: MergedOption = None,
    silo: Annotated[
        Path | None,
        typer.Option(help="A silo.yaml: its own records, model and device."),
    ] = None,
    charter: CharterOption = None,
    columns: ColumnsOption = "",
    split: Annotated[str, typer.Option(help="Of a data set with several.")] = "train",
    template: Annotated[
        str | None,
        typer.Option(help="Default: the charter's, or alpaca; chat: the tokenizer's."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=4, help="Longest record; default: the charter's, or 256."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=0, help="Longest answer; 0: no answers, only NLL.")
    ] = 64,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many records, drawn by --seed.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Prompts that are answered together.")
    ] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="Of the models: float32 or bfloat16.")
    ] = "float32",
    quantization: Annotated[
        str, typer.Option(help="Of the models: none, int8 or nf4.")
    ] = "none",
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of draw and intervals.")] = 0,
    tasks: Annotated[
        str, typer.Option(help="Tasks of lm-eval instead, as in arc_easy,piqa.")
    ] = "",
    tasks_folder: Annotated[
        Path | None, typer.Option(help="More task files for lm-eval.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Also write figures and answers there, for you alone."),
    ] = None,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Score models side by side: NLL, perplexity, ROUGE-L, exact match.

    The base model is always the first; the others' NLL is compared with it record by
    record. All figures are printed here and sent nowhere. Those of a silo's own records
    depend on them without any privacy: treat them like the records.
    """
    from fedit_secure.cli import evaluated
    from fedit_secure.errors import ConfigError

    if tasks and (data is not None or silo is not None):
        raise ConfigError("--tasks bring their own data: give either them or records")
    if not tasks and (data is None) == (silo is None):
        raise ConfigError("give the records to score, or --silo for a silo's own")
    asked = evaluated.Asked(
        model=model,
        adapters=tuple(adapter or ()),
        merged=tuple(merged or ()),
        charter=charter,
        template=template,
        max_tokens=max_tokens,
        device=device,
        precision=precision,
        quantization=quantization,
    )
    if tasks:
        evaluated.on_tasks(asked, tasks, tasks_folder, limit, batch, seed, format)
        return
    source = evaluated.source_of(data, columns, split, silo)
    evaluated.on_records(
        asked if silo is None else asked.at_silo(silo),
        source,
        evaluated.Scoring(max_new_tokens, limit, batch, confidence, seed),
        output,
        format,
        own=silo is not None,
    )
