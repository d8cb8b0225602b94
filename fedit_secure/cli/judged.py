"""From the options of `fedit judge` to its verdicts, with what is sent said before it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from fedit_secure.cli.evaluated import OWN, Asked, drawn
from fedit_secure.cli.output import OutputFormat, note, show
from fedit_secure.cli.steps import Steps
from fedit_secure.config import load_silo_config
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.evaluation.judge.endpoint import Endpoint, Key
from fedit_secure.evaluation.judge.questions import (
    Question,
    load_answers,
    load_questions,
)
from fedit_secure.evaluation.judge.tally import tally
from fedit_secure.evaluation.judge.trial import (
    ASKED_AGAIN,
    Answers,
    Ask,
    Transcript,
    asks,
    prompt_tokens,
    run,
)
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records

_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Judging:
    """Who judges, how often, and at what price; the options by their names."""

    url: str
    judge: str
    transcript: Path
    key_file: Path | None
    repeats: int
    limit: int | None
    temperature: float
    verdict_tokens: int
    timeout: float
    tries: int
    price_in: float | None
    price_out: float | None
    confidence: float
    seed: int
    max_new_tokens: int
    yes: bool
    may_send: bool


def judged(
    asked: Asked,
    questions: Path | None,
    silo: Path | None,
    first: Path | None,
    second: Path | None,
    judging: Judging,
    format: OutputFormat,
) -> None:
    """Asks the judge about every pair, and prints the tally.

    Raises PolicyRefusal for a silo's own records without consent, and before that
    nothing is read of them; ConfigError for what can't be used.
    """
    if (questions is None) == (silo is None):
        raise ConfigError(
            "give a file of questions, or --silo for a silo's own records"
        )
    if (first is None) != (second is None):
        raise ConfigError("give the answers of both models: --first and --second")
    own = silo is not None or any(
        _is_of_a_silo(path) for path in (questions, first, second) if path is not None
    )
    if own and not judging.may_send:
        raise PolicyRefusal(
            "a silo's own records would be sent to the judge, which no silo's ledger or "
            "secure sum protects: --i-may-send-these says that whoever is responsible for "
            "them agrees"
        )
    key = None if judging.key_file is None else Key.read(judging.key_file)
    found = load_questions(questions) if questions else _own_questions(silo)
    found = drawn(found, judging.limit, judging.seed)
    with Endpoint(
        judging.url,
        judging.judge,
        key,
        temperature=judging.temperature,
        max_tokens=judging.verdict_tokens,
        timeout=judging.timeout,
        tries=judging.tries,
    ) as endpoint:
        transcript = Transcript(judging.transcript)
        with Steps() as steps:
            names, pair = _answers(asked, silo, first, second, found, judging, steps)
        some = asks(found, *pair, judging.repeats)
        _ask_leave(some, endpoint, transcript, judging)
        with Steps() as steps:
            verdicts = run(some, endpoint, transcript, steps)
    result = asdict(tally(verdicts, judging.confidence, judging.seed))
    facts: dict[str, Any] = {"private": OWN} if own else {}
    facts |= {"judge": judging.judge} | names
    show(facts | result | {"transcript": str(judging.transcript)}, format)


def _own_questions(silo: Path | None) -> list[Question]:
    assert silo is not None
    source = DataSource.model_validate(load_silo_config(silo).data.model_dump())
    return [
        Question(
            f"record-{number}",
            ("\n\n".join(filter(None, (record.instruction, record.input))),),
            record.category,
        )
        for number, record in enumerate(load_records(source), start=1)
    ]


def _is_of_a_silo(path: Path) -> bool:
    """Whether a silo.yaml beside the file says that it holds the silo's records."""
    config = path.absolute().parent / "silo.yaml"
    if not config.is_file():
        return False
    try:
        data = Path(load_silo_config(config).data.path)
    except ConfigError:
        return True  # when in doubt, it is
    return data.exists() and path.exists() and data.samefile(path)


def _answers(
    asked: Asked,
    silo: Path | None,
    first: Path | None,
    second: Path | None,
    questions: Sequence[Question],
    judging: Judging,
    steps: Steps,
) -> tuple[dict[str, str], tuple[Answers, Answers]]:
    if first is not None and second is not None:
        names = {"first": str(first), "second": str(second)}
        return names, (load_answers(first), load_answers(second))
    from fedit_secure.evaluation.chat import wording_of
    from fedit_secure.evaluation.judge.answers import local_answers

    chosen = (asked if silo is None else asked.at_silo(silo)).chosen()
    said = local_answers(
        chosen.contenders,
        questions,
        wording_of(chosen.template, chosen.template_digest),
        judging.max_new_tokens,
        steps,
    )
    (one, other) = said
    return {"first": one, "second": other}, (said[one], said[other])


def _ask_leave(
    some: Sequence[Ask], endpoint: Endpoint, transcript: Transcript, judging: Judging
) -> None:
    """Says what will be sent and what it costs, and asks; raises typer.Abort for no."""
    left = [ask for ask in some if ask.key(endpoint) not in transcript.verdicts]
    read, written = prompt_tokens(left), len(left) * judging.verdict_tokens
    note(
        f"{len(left)} of {len(some)} verdicts are still to be had; questions and answers "
        f"of both models are sent to {judging.url}"
    )
    text = f"about {read} prompt tokens and at most {written} reply tokens"
    if judging.price_in is not None and judging.price_out is not None:
        cost = (read * judging.price_in + written * judging.price_out) / _MILLION
        text += f", about {cost:.2f} at most by the prices given"
    else:
        text += "; --price-in and --price-out say what that costs"
    note(f"{text} (more if replies must be asked for again, up to {ASKED_AGAIN} times)")
    if not left or judging.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to agree to this: give --yes")
    typer.confirm("Start?", abort=True, err=True)
