"""Streamed answers equal generated ones; turns are kept where a template has them."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from evaluation.adapted import demo_adapter

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.chat import (
    Conversation,
    Instruction,
    Turn,
    answer,
    speakers_of,
    wording_of,
)
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.merge import Merge, merge
from fedit_secure.evaluation.score import continue_prompts
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import load_template
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.saved_adapter import put_on, read_peft_adapter

LINE = "Set the flag of this lab value."
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    saved = read_peft_adapter(demo_adapter(folder / "adapter"))
    merge(Merge(base_model_path(), saved, folder / "merged"))
    return folder


@pytest.fixture
def adapted(folders):
    return Contenders(base_model_path(), (read_peft_adapter(folders / "adapter"),))


@pytest.fixture
def merged(folders):
    return Contenders(base_model_path(), merged=(folders / "merged",))


def expected(adapter=None):
    model = load_base_model(base_model_path())
    if adapter is not None:
        model = put_on(model, adapter)
    tokenizer = load_tokenizer(base_model_path())
    prompts = load_template("alpaca").prompts(tokenizer, [Record(LINE, "", "")])
    return continue_prompts(model, tokenizer, prompts, 8)[0]


def said(speaker):
    prompt = Instruction("alpaca").prompt(speaker, [], LINE, 8)
    return "".join(answer(speaker, prompt, 8)).strip()


@pytest.mark.parametrize("kind", ["adapted", "merged"])
def test_each_speaker_says_what_its_model_generates(kind, adapted, request):
    contenders = request.getfixturevalue(kind)
    with closing(speakers_of(contenders, compare=True)) as loaded:
        base, tuned = next(loaded)
        assert (base.name, tuned.name) == tuple(contenders.names)
        assert said(base) == expected()
        assert said(tuned) == expected(adapted.adapters[0])
        assert said(base) == expected()  # the adapter is off again
        assert said(base) != said(tuned)


@pytest.mark.parametrize("kind", ["adapted", "merged"])
def test_without_comparison_only_the_last_one_speaks(kind, request):
    contenders = request.getfixturevalue(kind)
    with closing(speakers_of(contenders, compare=False)) as loaded:
        (speaker,) = next(loaded)
        assert speaker.name == contenders.names[-1]
        assert said(speaker)


def test_there_must_be_something_to_compare():
    with pytest.raises(ConfigError, match="--compare needs"):
        next(speakers_of(Contenders(base_model_path()), compare=True))


@pytest.fixture
def speaker():
    with closing(speakers_of(Contenders(base_model_path()), compare=False)) as loaded:
        yield next(loaded)[0]


def test_a_closed_answer_ends_at_the_next_token(speaker):
    """Each forward pass needs a permit, so the machine's speed says nothing."""
    permits, passes = threading.Semaphore(30), []

    def wait(*_):
        passes.append(permits.acquire(timeout=60))

    speaker.tokenizer.eos_token = "<pad>"
    hook = speaker.model.register_forward_pre_hook(wait)
    prompt = Instruction("alpaca").prompt(speaker, [], LINE, 150)
    pieces = answer(speaker, prompt, 150)
    assert isinstance(next(pieces), str)
    closer = threading.Thread(target=pieces.close)
    closer.start()
    while closer.is_alive():
        permits.release()
        closer.join(0.1)
    hook.remove()
    assert all(passes)
    assert len(passes) < 150


def test_a_failing_model_is_not_taken_for_a_short_answer(speaker):
    def fail(*_):
        raise RuntimeError("out of memory")

    speaker.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(answer(speaker, [1, 2, 3], 4))


def test_a_chat_template_carries_the_turns_and_drops_the_oldest(speaker):
    tokenizer = speaker.tokenizer
    with pytest.raises(ConfigError, match="no chat template"):
        Conversation().prompt(speaker, [], "hello", 8)
    tokenizer.chat_template = TEMPLATE
    past = [Turn(f"number {n}?", f"it is {n}.") for n in range(3)]

    def text(turns, room=8):
        tokens = wording_of("chat").prompt(speaker, turns, "and 9?", room)
        assert len(tokens) + room <= 256
        return tokenizer.decode(tokens)

    whole = text(past)
    assert [f"number {n}?" in whole for n in range(3)] == [True] * 3
    assert whole.rstrip().endswith("<assistant>")
    whole_length = len(Conversation().prompt(speaker, past, "and 9?", 8))
    fewer = text(past, room=256 - whole_length + 1)
    assert "number 0?" not in fewer
    assert "number 2?" in fewer
    with pytest.raises(ConfigError, match="don't fit"):
        Conversation().prompt(speaker, past, "and 9? " * 200, 8)


def test_an_instruction_forgets_what_was_said(speaker):
    wording = wording_of("alpaca")
    past = [Turn("before", "and after")]
    assert wording.prompt(speaker, past, LINE, 8) == wording.prompt(
        speaker, [], LINE, 8
    )
    with pytest.raises(ConfigError, match="unknown template"):
        wording_of("no such")
