"""`fedit chat`: ask a model in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.contending import CharterOption, ModelOption
from fedit_secure.cli.output import FormatOption, OutputFormat


def chat(
    model: ModelOption = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A PEFT folder, such as a run's adapter/.")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(help="A merged model's folder.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the base model's answer beside it.")
    ] = False,
    charter: CharterOption = None,
    template: Annotated[
        str | None,
        typer.Option(help="Default: the charter's, or alpaca; chat: the tokenizer's."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = 128,
    once: Annotated[
        str | None, typer.Option(help="Ask this, print the answer, and end.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="Of the model: float32 or bfloat16.")
    ] = "float32",
    quantization: Annotated[
        str, typer.Option(help="Of the model: none, int8 or nf4.")
    ] = "none",
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Talk to base model, adapter or merged model; answers appear as they are made.

    Each line is an instruction by itself; with --template chat it goes on from the lines
    before. Ctrl-C ends an answer, Ctrl-D the chat. Lines may also come from a pipe.
    Nothing is sent or kept.
    """
    from contextlib import closing

    from fedit_secure.cli.conversation import converse
    from fedit_secure.cli.evaluated import Asked
    from fedit_secure.errors import ConfigError
    from fedit_secure.evaluation.chat import speakers_of, wording_of

    if adapter is not None and merged is not None:
        raise ConfigError("give --adapter or --merged: a merged model has its adapter")
    if merged is not None and model is None and not compare:
        model = str(merged)  # nothing else is needed to ask it
    asked = Asked(
        model=model,
        adapters=() if adapter is None else (adapter,),
        merged=() if merged is None else (merged,),
        charter=charter,
        template=template,
        max_tokens=None,
        device=device,
        precision=precision,
        quantization=quantization,
    )
    chosen = asked.chosen()
    wording = wording_of(chosen.template, chosen.template_digest)
    with closing(speakers_of(chosen.contenders, compare=compare)) as loaded:
        converse(next(loaded), wording, max_new_tokens, once, format)
