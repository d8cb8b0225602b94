"""One question at a time, its answer as it is made: by a base, an adapter, a merged model."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.contenders import BASE, Contenders
from fedit_secure.evaluation.score import cut_prompts, positions_of
from fedit_secure.tuning.base_model import load_tokenizer
from fedit_secure.tuning.chat_template import CHAT, ChatTemplate
from fedit_secure.tuning.examples import load_template, require_template
from fedit_secure.tuning.record_loss import device_of
from fedit_secure.tuning.records import Record


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked and what one speaker answered."""

    asked: str
    answered: str


class Wording(Protocol):
    """How a line becomes a prompt, in tokens that leave room for an answer."""

    def prompt(
        self, speaker: Speaker, past: Sequence[Turn], line: str, room: int
    ) -> list[int]:
        """The prompt of `line`; `room` is the longest answer in tokens."""

    def stops(self, speaker: Speaker) -> list[int]:
        """The tokens at which an answer is over."""


class Instruction:
    """Each line is an instruction by itself, in a template that any tokenizer takes."""

    def __init__(self, template: str, agreed: str | None = None) -> None:
        self._template = load_template(template, agreed=agreed)

    def prompt(
        self, speaker: Speaker, past: Sequence[Turn], line: str, room: int
    ) -> list[int]:
        """What tuning would make of an instruction without input; the past is left out."""
        del past
        record = Record(line, "", "")
        parts = (speaker.model, speaker.tokenizer, [record], self._template, room)
        return cut_prompts(*parts)[0]

    def stops(self, speaker: Speaker) -> list[int]:
        """The tokens at which an answer is over."""
        return self._template.stops(speaker.tokenizer)


class Conversation:
    """The tokenizer's own chat template, with all turns that fit."""

    def __init__(self, agreed: str | None = None) -> None:
        self._agreed = agreed

    def prompt(
        self, speaker: Speaker, past: Sequence[Turn], line: str, room: int
    ) -> list[int]:
        """The conversation so far and `line`; the oldest turns go first.

        Raises ConfigError: the tokenizer has no chat template, or one that can't be used,
        or `line` alone is too long.
        """
        template = self._template(speaker)
        turns = [(turn.asked, turn.answered) for turn in past]
        positions = positions_of(speaker.model)
        for dropped in range(len(past) + 1):
            found = template.conversation(speaker.tokenizer, turns[dropped:], line)
            if positions is None or len(found) + room <= positions:
                return found
        raise ConfigError(
            f"{len(found)} tokens and an answer of {room} don't fit into the model's "
            f"{positions} positions"
        )

    def stops(self, speaker: Speaker) -> list[int]:
        """The tokens at which an answer is over."""
        return self._template(speaker).stops(speaker.tokenizer)

    def _template(self, speaker: Speaker) -> ChatTemplate:
        found = load_template(CHAT, speaker.tokenizer, self._agreed)
        assert isinstance(found, ChatTemplate)
        return found


def wording_of(template: str, agreed: str | None = None) -> Wording:
    """The wording with that name; `agreed` is a charter's digest of it.

    Raises ConfigError if there is none.
    """
    require_template(template)
    if template == CHAT:
        return Conversation(agreed)
    return Instruction(template, agreed)


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that answers. `bare`: with its adapter switched off."""

    name: str
    model: Any
    tokenizer: Any
    bare: bool = False

    def worn(self) -> AbstractContextManager[Any]:
        """While this is entered, the adapter is as this speaker wants it."""
        return self.model.disable_adapter() if self.bare else nullcontext()


def speakers_of(
    contenders: Contenders, *, compare: bool
) -> Generator[list[Speaker], None, None]:
    """Yields once: the base's adapter or merged model, with `compare` after the base.

    They are good until the generator is closed. Base and adapter share their weights.
    Raises ConfigError as `Contenders.each` does, and for `compare` without anything.
    """
    if compare and len(contenders.names) == 1:
        raise ConfigError("--compare needs an --adapter or a --merged model")
    if contenders.merged and not compare:  # it needn't lie in memory beside its base
        folder = contenders.merged[-1]
        whole = contenders.load(folder)
        yield [Speaker(str(folder), whole, load_tokenizer(folder))]
        return
    loaded = contenders.each()
    _, base, tokenizer = next(loaded)
    name, model, own = next(loaded, (BASE, base, tokenizer))
    wanted = [Speaker(name, model, own)]
    if compare:
        adapted = not contenders.merged
        first = Speaker(BASE, model if adapted else base, tokenizer, bare=adapted)
        wanted.insert(0, first)
    try:
        yield wanted
    finally:
        loaded.close()


def answer(
    speaker: Speaker,
    prompt: list[int],
    max_new_tokens: int,
    stops: Sequence[int] | None = None,
) -> Generator[str, None, None]:
    """The greedy answer, piece by piece. Closing the iterator ends it at the next token.

    `stops` are the tokens that end it; None for the tokenizer's end of sequence. Whatever
    the model raises is raised here.
    """
    import torch
    from transformers import StoppingCriteria, TextIteratorStreamer

    stop = threading.Event()

    class Stopped(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            rows = (input_ids.shape[0],)
            return torch.full(rows, stop.is_set(), device=input_ids.device)

    streamer = TextIteratorStreamer(
        speaker.tokenizer, skip_prompt=True, skip_special_tokens=True
    )
    failed: list[BaseException] = []

    def make() -> None:
        try:
            tokens = torch.tensor([prompt], device=device_of(speaker.model))
            with torch.no_grad(), speaker.worn():
                speaker.model.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=speaker.tokenizer.pad_token_id,
                    eos_token_id=list(stops or [speaker.tokenizer.eos_token_id]),
                    streamer=streamer,
                    stopping_criteria=[Stopped()],
                )
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            failed.append(error)
            streamer.text_queue.put(streamer.stop_signal)

    making = threading.Thread(target=make, name="answer", daemon=True)
    making.start()
    try:
        yield from streamer
    finally:
        stop.set()
        making.join()
    if failed:
        raise failed[0]
