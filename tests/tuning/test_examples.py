"""Templates word the prompt, the prompt is cut first, the response keeps its room."""

from __future__ import annotations

import numpy as np
import pytest

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.examples import Example, load_template, make_examples
from fedit_secure.tuning.records import Record


def test_alpaca_words_the_prompt() -> None:
    alpaca = load_template("alpaca")
    assert alpaca.prompt(Record("Add", "", "2")) == (
        "Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\nAdd\n\n"
        "### Response:\n"
    )
    with_input = alpaca.prompt(Record("Add", "1+1", "2"))
    assert "paired with an input that provides further context" in with_input
    assert with_input.endswith("Add\n\n### Input:\n1+1\n\n### Response:\n")


def test_braces_of_a_record_are_not_filled_in() -> None:
    prompt = load_template("alpaca").prompt(Record("{input} {instruction}", "{x}", "y"))
    assert "### Instruction:\n{input} {instruction}\n\n### Input:\n{x}\n" in prompt


def test_an_unknown_template_is_named() -> None:
    known = "alpaca, alpaca_short, chat, vicuna"
    with pytest.raises(
        ConfigError, match=f"unknown template 'nope'; known are {known}"
    ):
        load_template("nope")


@pytest.mark.parametrize(
    ("name", "with_input", "without"),
    [
        ("alpaca_short", "### Instruction:\nI\n\n### Input:\nN\n\n### Response:\n",
         "### Instruction:\nI\n\n### Response:\n"),
        ("vicuna", " USER: I\nN ASSISTANT:", " USER: I ASSISTANT:"),
    ],
)  # fmt: skip
def test_other_templates(name: str, with_input: str, without: str) -> None:
    template = load_template(name)
    assert template.prompt(Record("I", "N", "R")).endswith(with_input)
    assert template.prompt(Record("I", "", "R")).endswith(without)


def test_the_digest_is_what_was_agreed_on() -> None:
    found = load_template("alpaca").digest
    assert len(found) == 32
    assert load_template("alpaca", agreed=found.hex()).digest == found
    with pytest.raises(ConfigError, match="'vicuna' isn't the one that was agreed on"):
        load_template("vicuna", agreed=found.hex())


@pytest.mark.parametrize("name", ["alpaca", "alpaca_short", "vicuna"])
def test_a_records_own_text_has_no_control_tokens(tokenizer, name: str) -> None:
    record = Record("a</s>b", "<s>", "</s>d<pad>")
    (example,) = make_examples([record], tokenizer, name, 512)
    control = set(tokenizer.all_special_ids)
    assert [t for t in example.tokens.tolist() if t in control] == [2]
    said = tokenizer.decode(example.tokens[example.first_label :])
    assert said == "</s>d<pad></s>"
    assert "a</s>b" in tokenizer.decode(example.tokens)


def test_only_the_response_and_its_end_are_labels(tokenizer) -> None:
    record = Record("Add", "1+1", "it is 2")
    (example,) = make_examples([record], tokenizer, "alpaca", 512)
    prompt = load_template("alpaca").prompt(record)
    first = example.first_label
    assert tokenizer.decode(example.tokens[:first]) == prompt
    assert tokenizer.decode(example.tokens[first:-1]) == "it is 2"
    assert example.tokens[-1] == tokenizer.eos_token_id
    assert example.labels == len(example.tokens) - first


def test_everything_can_be_a_label(tokenizer) -> None:
    (example,) = make_examples(
        [Record("Add", "", "2")], tokenizer, "alpaca", 512, response_only=False
    )
    assert example.first_label == 1


def test_a_long_input_is_cut_and_nothing_else(tokenizer) -> None:
    record = Record("Sum up", "word " * 400, "short answer")
    (example,) = make_examples([record], tokenizer, "alpaca", 256)
    text = tokenizer.decode(example.tokens)
    assert 250 < len(example.tokens) <= 256
    assert "### Instruction:\nSum up\n\n### Input:\nword word" in text
    assert text.endswith("\n\n### Response:\nshort answer</s>")


def test_a_long_instruction_is_cut_after_the_input(tokenizer) -> None:
    record = Record("do this " * 100, "context " * 100, "answer")
    (example,) = make_examples([record], tokenizer, "alpaca", 200)
    text = tokenizer.decode(example.tokens)
    assert "context" not in text.replace("further context", "")
    assert "### Instruction:\ndo this" in text
    assert text.endswith("### Response:\nanswer</s>")


def test_a_cut_response_has_half_the_room_and_no_end(tokenizer) -> None:
    record = Record("do this " * 100, "", "long answer " * 200)
    (example,) = make_examples([record], tokenizer, "alpaca", 200)
    assert len(example.tokens) == 200
    assert example.labels >= 100
    assert tokenizer.eos_token_id not in example.tokens


@pytest.mark.parametrize("cut", [8, 9, 16, 33, 64, 128, 256])
def test_every_record_keeps_a_label_at_every_cut(tokenizer, cut: int) -> None:
    records = [
        Record("a", "", "b"),
        Record("do this " * 50, "ctx " * 200, "b"),
        Record("a", "é" * 300, "long answer " * 100),
        Record("x" * 500, "", "é" * 300),
    ]
    for example in make_examples(records, tokenizer, "alpaca", cut):
        assert len(example.tokens) <= cut
        assert example.labels >= 1
        assert 1 <= example.first_label <= len(example.tokens)
        assert example.tokens.dtype == np.int64


def test_examples_keep_the_order_of_the_records(tokenizer) -> None:
    records = [Record("i", "x" * (7 * n % 50), f"r{n}") for n in range(20)]
    examples = make_examples(records, tokenizer, "alpaca", 150)
    for record, example in zip(records, examples, strict=True):
        answer = tokenizer.decode(example.tokens[example.first_label : -1])
        assert answer == record.response
    assert make_examples([], tokenizer, "alpaca", 150) == []


def test_a_record_without_labels_is_possible() -> None:
    assert Example(np.arange(4), 4).labels == 0


def test_a_tokenizer_without_an_end_is_refused(tokenizer) -> None:
    import copy

    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ConfigError, match="has no end-of-sequence token"):
        make_examples([Record("a", "", "b")], endless, "alpaca", 64)
