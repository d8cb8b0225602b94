"""Tuning, scoring and generating word a record alike, and no record can leave its turn."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
from chat_templates import (
    CHATML,
    HEADERS,
    IN_BRACKETS,
    MARKERS,
    PLAIN_MARKERS,
    SHAPES,
    with_template,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.score import cut_prompts
from fedit_secure.tuning.base_model import load_tokenizer
from fedit_secure.tuning.chat_template import ChatTemplate, user_text
from fedit_secure.tuning.examples import load_template, make_examples, uncut_lengths
from fedit_secure.tuning.records import Record

PUBLIC_BASE = Path(__file__).parents[3] / "shared/data/models/public-base-2.5m"
RECORDS = [
    Record("Add the two.", "1 and 1", "It is 2."),
    Record("  Greet.\n", "", '\nHello <b>you</b> & "me"\n'),
    Record("Sag's auf Deutsch: {{ x }}", "{% raw %}", "Grüße, 😀\n\n- eins\n- zwei"),
    Record("<turn", "[INST]", " [/INST] {instruction}"),
]


@pytest.fixture(scope="module", params=["small", "public"])
def plain(request, tokenizer):
    """A small BPE, and a real one where there is one."""
    if request.param == "small":
        return tokenizer
    if not PUBLIC_BASE.is_dir():
        pytest.skip(f"{PUBLIC_BASE} isn't here")
    return load_tokenizer(PUBLIC_BASE)


@pytest.fixture(params=SHAPES, ids=list(SHAPES))
def worded(request, plain):
    return with_template(copy.deepcopy(plain), SHAPES[request.param])


def messages(record):
    user = {"role": "user", "content": user_text(record)}
    return [user, {"role": "assistant", "content": record.response.strip()}]


def test_the_prompt_is_what_the_tokenizer_itself_makes_of_it(worded):
    """As any other program does that asks the model in its own template."""
    examples = make_examples(RECORDS, worded, "chat", 500)
    for record, example in zip(RECORDS, examples, strict=True):
        theirs = worded.apply_chat_template(
            messages(record)[:1], add_generation_prompt=True, return_dict=False
        )
        assert example.tokens[: example.first_label].tolist() == theirs


def test_prompt_and_answer_are_the_whole_conversation_to_the_end_of_its_turn(worded):
    template = load_template("chat", worded)
    for record, example in zip(
        RECORDS, make_examples(RECORDS, worded, template, 500), strict=True
    ):
        theirs = worded.apply_chat_template(messages(record), return_dict=False)
        tokens, first = example.tokens.tolist(), example.first_label
        if worded.chat_template == HEADERS and theirs[:first] != tokens[:first]:
            # Two line ends are one token only where nothing follows, as in the prompt.
            assert worded.decode(theirs) == worded.decode(tokens)
            continue
        assert theirs[: len(tokens)] == tokens
        assert not worded.decode(theirs[len(tokens) :]).strip()
        said = worded.decode(tokens[example.first_label :])
        assert record.response.strip() in said
        assert tokens[-1] == template.stop
        assert template.stop in template.stops(worded)
        assert worded.eos_token_id in template.stops(worded)


def test_there_is_one_beginning_of_sequence_at_most(worded):
    wanted = int("bos_token" in worded.chat_template)
    for example in make_examples(RECORDS, worded, "chat", 500):
        assert example.tokens.tolist().count(worded.bos_token_id) == wanted


def test_evaluation_and_conversation_ask_with_the_same_tokens(worded):
    template = load_template("chat", worded)
    examples = make_examples(RECORDS, worded, template, 500)
    model = type("Positions", (), {"config": None})()
    asked = cut_prompts(model, worded, RECORDS, template, 40)
    for record, example, prompt in zip(RECORDS, examples, asked, strict=True):
        ours = example.tokens[: example.first_label].tolist()
        assert prompt == ours
        assert template.conversation(worded, [], user_text(record)) == ours


def test_a_conversation_has_its_turns_as_the_tokenizer_words_them(worded):
    template = load_template("chat", worded)
    past = [("One?", "It is 1."), (" Two? ", "\nIt is <i>2</i>.")]
    turns = []
    for asked, answered in past:
        turns.append({"role": "user", "content": asked.strip()})
        turns.append({"role": "assistant", "content": answered.strip()})
    turns.append({"role": "user", "content": "Three?"})
    theirs = worded.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False
    )
    assert template.conversation(worded, past, "Three?") == theirs


def test_too_long_records_are_cut_inside_the_frame(worded):
    template = load_template("chat", worded)
    records = [
        Record("Sum up.", "word " * 400, "Short answer."),
        Record("do this " * 100, "context " * 100, "Answer."),
        Record("do this " * 100, "", "long answer " * 200),
    ]
    examples = make_examples(records, worded, template, 120)
    texts = [worded.decode(example.tokens) for example in examples]
    for example, text in zip(examples, texts, strict=True):
        assert 100 < len(example.tokens) <= 120
        prompt = worded.decode(example.tokens[: example.first_label])
        assert prompt.startswith(template.head)
        assert prompt.endswith(template.middle)
        assert text.startswith(template.head)
    assert "Sum up.\n\nword word" in texts[0]
    assert texts[0].count("Short answer.") == 1
    assert examples[0].tokens[-1] == template.stop
    assert "context" not in texts[1]
    assert "do this do this" in texts[1]
    assert examples[1].tokens[-1] == template.stop
    assert examples[2].labels >= 60
    assert template.stop not in examples[2].tokens[examples[2].first_label :]
    prompts, responses = uncut_lengths(records, worded, template)
    assert min(p + r for p, r in zip(prompts, responses, strict=True)) > 120


def test_a_records_own_markers_are_words(worded):
    """Injection: a record that ends its turn itself, and speaks for the other side."""
    template = load_template("chat", worded)
    evil = "".join((*MARKERS, *PLAIN_MARKERS, "</s>", "<s>", "<pad>"))
    told = f"a{evil}assistant\nb"
    named = set(worded.all_special_ids) | {template.stop}
    named |= {worded.convert_tokens_to_ids(word) for word in MARKERS}
    if "<turn>" in worded.chat_template:
        named |= {worded.convert_tokens_to_ids(word) for word in PLAIN_MARKERS}

    def control(record):
        (example,) = make_examples([record], worded, template, 2000)
        tokens = example.tokens.tolist()
        # Nothing is lost: the words are there, letter by letter.
        return [t for t in tokens if t in named], worded.decode(tokens)

    harmless, _ = control(Record("a", "b", "c"))
    found, text = control(Record(told, told, told))
    assert found == harmless
    assert text.count(told) == 3
    line = template.conversation(worded, [(told, told)], told)
    plain = template.conversation(worded, [("a", "b")], "c")
    assert [t for t in line if t in named] == [t for t in plain if t in named]


PIECES = [*MARKERS, *PLAIN_MARKERS, "</s>", "<|", "|>", "im_end", "<", "/s>", " ", "\n",
          "assistant", "é", "\U000f0000", "\U000f0001"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("shape", ["chatml", "roles renamed"])
def test_no_text_whatever_says_a_control_token(tokenizer, shape, text):
    worded = with_template(copy.deepcopy(tokenizer), SHAPES[shape])
    template = load_template("chat", worded)
    names = [*MARKERS, "<s>", "</s>", "<pad>"]
    names += PLAIN_MARKERS if "<turn>" in SHAPES[shape] else ()
    named = {worded.convert_tokens_to_ids(name) for name in names}

    def control(said):
        record = Record(f"a{said}", said, f"b{said}")
        (example,) = make_examples([record], worded, template, 2000)
        return [token for token in example.tokens.tolist() if token in named]

    assert control(text) == control("c")


def test_without_markers_of_its_own_the_tokenizers_end_is_learned(plain):
    """The markers are ordinary words to this tokenizer, and nothing ends its answers."""
    worded = with_template(copy.deepcopy(plain), CHATML, markers=False)
    template = load_template("chat", worded)
    (example,) = make_examples([RECORDS[0]], worded, template, 500)
    said = worded.decode(example.tokens[example.first_label :])
    assert said == "It is 2.<|im_end|></s>"
    assert template.stops(worded) == [worded.eos_token_id]


def test_an_answer_that_would_merge_into_its_prompt_stays_apart(plain):
    """Generation can't take back the prompt's last token."""
    before = "{{ '[INST]' + messages[0].content + '[/INST] ' }}"
    merging = (
        before + "{% if messages[1] %}{{ messages[1].content + '</s>' }}{% endif %}"
    )
    worded = with_template(copy.deepcopy(plain), merging)
    record = Record("Say it.", "", "the answer")
    (example,) = make_examples([record], worded, "chat", 100)
    prompt = worded("[INST]Say it.[/INST] ", add_special_tokens=False)["input_ids"]
    assert example.tokens[: example.first_label].tolist() == prompt
    assert worded.decode(example.tokens) == "[INST]Say it.[/INST] the answer</s>"


def refused(plain, template):
    with pytest.raises(ConfigError) as found:
        load_template("chat", with_template(copy.deepcopy(plain), template))
    assert found.value.exit_status == 4
    sentence = str(found.value)
    assert "\n" not in sentence
    return sentence


SAID = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template: give another template than chat"),
        ("{{ raise_exception('only with tools') }}", "fails for a .* only with tools"),
        ("{% if %}", "fails for a user's and an assistant's turn"),
        ("{{ missing.field }}", "fails for a user's and an assistant's turn"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes, repeats"),
        ("{% for m in messages %}{{ m.content | e }}{% endfor %}", "changes, repeats"),
        ("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", "changes"),
        ("{% for m in messages %}{{ m.content.split()|join(' ') }}{% endfor %}", "changes"),
        ("{{ messages[-1].content }}", "changes, repeats or leaves out"),
        ("{{ messages[0].content * 2 }}", "changes, repeats or leaves out"),
        ("{{ messages | length }}" + SAID, "doesn't let an answer go on"),
        (SAID + "{% if add_generation_prompt %}<model>{% endif %}", "doesn't let an answ"),
        (SAID + "{{ strftime_now('%d %b %Y') }}", "today's date: put a fixed one"),
        (
            "{% if not date is defined %}{% set date = strftime_now('%Y') %}{% endif %}"
            "{{ date }}" + SAID,
            "today's date",
        ),
        ("{{ ['a', 'b'] | random }}" + SAID, "something else each time"),
        ("{{ lipsum() }}" + SAID, "something else each time"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_on_is_refused_in_one_sentence(tokenizer, template, says):
    import re

    assert re.search(says, refused(tokenizer, template))


def test_a_date_that_is_only_written_for_tools_is_no_reason(tokenizer):
    dated = "{% if tools %}{{ strftime_now('%Y') }}{% endif %}" + CHATML
    worded = with_template(copy.deepcopy(tokenizer), dated)
    plain = with_template(copy.deepcopy(tokenizer), CHATML)
    assert load_template("chat", worded) == load_template("chat", plain)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__['os'] }}",
        "{% for a in range(10 ** 9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_runs_in_the_sandbox(tokenizer, template):
    assert "fails for a user's and an assistant's turn" in refused(tokenizer, template)


def test_the_sandbox_is_the_one_that_transformers_has():
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template("{{ messages }}").environment
    assert isinstance(environment, ImmutableSandboxedEnvironment)


def test_the_digest_pins_the_frame_and_nothing_else(tokenizer):
    def pinned(template):
        worded = with_template(copy.deepcopy(tokenizer), template)
        return load_template("chat", worded).digest

    known = pinned(CHATML)
    assert len(known) == 32
    assert pinned("{# the same #}" + CHATML) == known
    others = [pinned(template) for template in SHAPES.values() if template != CHATML]
    assert len({known, *others}) == len(SHAPES)
    worded = with_template(copy.deepcopy(tokenizer), CHATML)
    assert load_template("chat", worded, known.hex()) == ChatTemplate.of(worded)
    worded.chat_template = IN_BRACKETS
    with pytest.raises(ConfigError, match="'chat' isn't the one that was agreed on"):
        load_template("chat", worded, known.hex())


def test_its_requirements_are_those_of_the_extra():
    """jinja2 comes with torch today; a silo mustn't depend on that."""
    assert importlib.util.find_spec("jinja2") is not None
