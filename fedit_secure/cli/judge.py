"""`fedit judge`: a strong model compares two models' answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.contending import CharterOption, ModelOption
from fedit_secure.cli.output import FormatOption, OutputFormat


def judge(
    endpoint: Annotated[
        str,
        typer.Option(help="Base URL of an OpenAI-compatible API, as in https://x/v1."),
    ],
    judge_model: Annotated[str, typer.Option(help="The judge's name there.")],
    transcript: Annotated[
        Path, typer.Option(help="Every verdict is kept there; a killed run goes on.")
    ],
    questions: Annotated[
        Path | None, typer.Argument(help="JSON lines with question_id and turns.")
    ] = None,
    silo: Annotated[
        Path | None,
        typer.Option(help="A silo.yaml: ask its own records. They are sent!"),
    ] = None,
    first: Annotated[
        Path | None, typer.Option(help="The first model's answers, as JSON lines.")
    ] = None,
    second: Annotated[
        Path | None, typer.Option(help="The second model's answers.")
    ] = None,
    model: ModelOption = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Answers here, against its base model.")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(help="Answers here, against --model.")
    ] = None,
    charter: CharterOption = None,
    template: Annotated[str | None, typer.Option(help="As for fedit chat.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer made here, in tokens.")
    ] = 128,
    key_file: Annotated[
        Path | None, typer.Option(help="Holds the API key; for its owner alone (0600).")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Verdicts of each order of a pair.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many questions, drawn by --seed.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Of the judge.")] = 0.2,
    verdict_tokens: Annotated[
        int, typer.Option(min=8, help="Longest verdict, in tokens.")
    ] = 512,
    timeout: Annotated[
        float, typer.Option(min=0.01, help="Seconds without a byte.")
    ] = 120.0,
    tries: Annotated[int, typer.Option(min=1, help="Of every request.")] = 6,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="Per million prompt tokens.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="Per million reply tokens.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Of the interval.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of draw and interval.")] = 0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Don't ask before it starts.")
    ] = False,
    i_may_send_these: Annotated[
        bool,
        typer.Option(
            "--i-may-send-these", help="A silo's own records may go to the endpoint."
        ),
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Have a judge score two models' answers, pair by pair, in both orders.

    Questions and answers are SENT to the endpoint. Without --first and --second the base
    model and its adapter, or merged model, answer here. Says what it will cost, and
    asks, before it starts.
    """
    from fedit_secure.cli.evaluated import Asked
    from fedit_secure.cli.judged import Judging, judged

    asked = Asked(
        model=model,
        adapters=() if adapter is None else (adapter,),
        merged=() if merged is None else (merged,),
        charter=charter,
        template=template,
        max_tokens=None,
        device=device,
        precision="float32",
        quantization="none",
    )
    judging = Judging(
        url=endpoint,
        judge=judge_model,
        transcript=transcript,
        key_file=key_file,
        repeats=repeats,
        limit=limit,
        temperature=temperature,
        verdict_tokens=verdict_tokens,
        timeout=timeout,
        tries=tries,
        price_in=price_in,
        price_out=price_out,
        confidence=confidence,
        seed=seed,
        max_new_tokens=max_new_tokens,
        yes=yes,
        may_send=i_may_send_these,
    )
    judged(asked, questions, silo, first, second, judging, format)
