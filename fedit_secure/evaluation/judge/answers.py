"""The answers of the base model and of what was made of it, to be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.chat import Conversation, Speaker, Turn, Wording
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.judge.questions import Question
from fedit_secure.evaluation.score import continue_prompts

Answered = dict[str, tuple[str, ...]]


def local_answers(
    contenders: Contenders,
    questions: Sequence[Question],
    wording: Wording,
    max_new_tokens: int,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Answered]:
    """Greedy answers by contender and question: to all turns if the wording carries a
    conversation, else to the first, since a later one speaks of the answer before it.

    Raises ConfigError unless there are just two contenders.
    """
    if len(contenders.names) != 2:
        raise ConfigError(
            "the judge compares two: give one --adapter or --merged model"
        )
    turns = max(len(question.turns) for question in questions)
    found: dict[str, Answered] = {}
    for name, model, tokenizer in contenders.each():
        speaker = Speaker(name, model, tokenizer)
        past: dict[str, list[Turn]] = {question.id: [] for question in questions}
        for turn in range(turns if isinstance(wording, Conversation) else 1):
            asked = [q for q in questions if turn < len(q.turns)]
            prompts = [
                wording.prompt(speaker, past[q.id], q.turns[turn], max_new_tokens)
                for q in asked
            ]
            said = continue_prompts(
                model,
                tokenizer,
                prompts,
                max_new_tokens,
                stops=wording.stops(speaker),
                batch=16,
                on_progress=lambda done, of, name=name: on_progress(  # type: ignore[misc]
                    f"{name}: answers", done, of
                ),
            )
            for question, text in zip(asked, said, strict=True):
                past[question.id].append(Turn(question.turns[turn], text))
        found[name] = {
            question: tuple(turn.answered for turn in all_turns)
            for question, all_turns in past.items()
        }
    return found
