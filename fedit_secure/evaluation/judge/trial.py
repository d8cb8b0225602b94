"""Every pair of answers before the judge, in both orders, with a transcript to resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.judge.endpoint import Endpoint
from fedit_secure.evaluation.judge.questions import Question
from fedit_secure.evaluation.judge.wording import messages, read_verdict
from fedit_secure.federation.durable import append_durably, read_file, write_durably

Answers = Mapping[str, tuple[str, ...]]
ASKED_AGAIN = 3
"""Times that one verdict is asked for until it can be read."""
_OWNER_ONLY = 0o600
_CHARACTERS = 4  # of a token, roughly, in English


@dataclass(frozen=True, slots=True)
class Ask:
    """One verdict to be had. `swapped`: the second model's answer is shown as A's."""

    question: str
    swapped: bool
    repeat: int
    chat: tuple[dict[str, str], ...]

    def key(self, judge: Endpoint) -> str:
        """What makes it this verdict: all that the judge is sent, and the repeat."""
        told = [
            judge.model,
            judge.temperature,
            judge.max_tokens,
            self.chat,
            self.repeat,
        ]
        return hashlib.sha256(json.dumps([*told, self.swapped]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`first` and `second` are the two models' scores whatever the order was; None where
    no reply could be read. Tokens are of all replies that it took."""

    key: str
    question: str
    swapped: bool
    repeat: int
    first: float | None
    second: float | None
    reply: str
    prompt_tokens: int
    completion_tokens: int


def asks(
    questions: Sequence[Question], first: Answers, second: Answers, repeats: int
) -> list[Ask]:
    """Every question in both orders, `repeats` times.

    Raises ConfigError for a question that one of the two hasn't answered.
    """
    found = []
    for question in questions:
        for name, answers in (("first", first), ("second", second)):
            if question.id not in answers:
                raise ConfigError(
                    f"the {name} model has no answer to question {question.id!r}"
                )
        pair = first[question.id], second[question.id]
        for repeat in range(repeats):
            for swapped in (False, True):
                shown = pair[::-1] if swapped else pair
                chat = tuple(messages(question.turns, *shown))
                found.append(Ask(question.id, swapped, repeat, chat))
    return found


def prompt_tokens(some: Sequence[Ask]) -> int:
    """About how many tokens the judge has to read, at four characters each."""
    letters = sum(len(m["content"]) for ask in some for m in ask.chat)
    return -(-letters // _CHARACTERS)


class Transcript:
    """A file with one verdict a line, for its owner alone. Each is on the disk before the
    next is asked for.

    Raises ConfigError for a file that is something else. A last line that a killed run
    left unfinished is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.verdicts: dict[str, Verdict] = {}
        if not path.exists():
            return
        data = read_file(path, "the transcript")
        whole, _, torn = data.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                verdict = Verdict(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                raise ConfigError(
                    f"{path}: line {number} isn't a verdict: give another --transcript"
                ) from None
            self.verdicts[verdict.key] = verdict
        if torn:
            if not torn.startswith(b"{"):
                raise ConfigError(f"{path}: isn't a transcript of verdicts")
            kept = whole + b"\n" if whole else b""
            write_durably(path, kept, mode=_OWNER_ONLY)

    def add(self, verdict: Verdict) -> None:
        """Appends it. Raises StorageError."""
        if not self._path.exists():
            write_durably(self._path, b"", mode=_OWNER_ONLY, replace=False)
        line = json.dumps(asdict(verdict), ensure_ascii=False) + "\n"
        append_durably(self._path, line.encode())
        self.verdicts[verdict.key] = verdict


def run(
    some: Sequence[Ask],
    judge: Endpoint,
    transcript: Transcript,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Verdict]:
    """The verdict of every ask: out of the transcript, or else from the endpoint.

    Raises what `Endpoint.ask` and `Transcript.add` raise; the verdicts until then are
    kept, and the next run goes on after them.
    """
    verdicts = []
    for number, ask in enumerate(some, start=1):
        key = ask.key(judge)
        if key not in transcript.verdicts:
            transcript.add(_judged(ask, key, judge))
        verdicts.append(transcript.verdicts[key])
        on_progress("verdicts", number, len(some))
    return verdicts


def _judged(ask: Ask, key: str, judge: Endpoint) -> Verdict:
    counts = [0, 0]
    for _ in range(ASKED_AGAIN):
        reply = judge.ask(ask.chat)
        counts[0] += reply.prompt_tokens
        counts[1] += reply.completion_tokens
        scores = read_verdict(reply.text)
        if scores is not None:
            break
    first, second = scores or (None, None)
    if ask.swapped:
        first, second = second, first
    told: dict[str, Any] = {"first": first, "second": second, "reply": reply.text}
    return Verdict(key, ask.question, ask.swapped, ask.repeat, **told,
                   prompt_tokens=counts[0], completion_tokens=counts[1])  # fmt: skip
