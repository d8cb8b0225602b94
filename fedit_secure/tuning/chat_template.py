"""`template: chat`: a record as a user's and an assistant's turn in the tokenizer's words.

A chat template is a program in a file of the base model. It runs in transformers' sandbox
(jinja's ImmutableSandboxedEnvironment), and only on placeholders: what it writes around
them is the frame. Every record is then worded by the frame alone, so no template can
treat one record otherwise than another, and the frame's digest says all that it does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fedit_secure.errors import ConfigError
from fedit_secure.secagg.transcript import digest
from fedit_secure.tuning.records import Record

CHAT = "chat"
"""The name of this template, which no packaged one has."""

_AT_RANDOM = re.compile(r"(\||\bmap\(\s*['\"])\s*random\b")
_CHANGING = {
    "lipsum": "writes something else each time",
    "strftime_now": "writes today's date: put a fixed one into the base model's file",
}
_LONGEST_REASON = 120


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """What a chat template writes around a user's text and the assistant's.

    Attributes:
        head: before the user's text, with the beginning-of-sequence token if any.
        middle: after it, up to where generation starts.
        lead: what still comes before the assistant's text, such as a space.
        end: after it, up to the end of the turn.
        stop: the token that ends the turn.
        digest: 32 bytes, of all of these.
    """

    name: ClassVar[str] = CHAT

    head: str
    middle: str
    lead: str
    end: str
    stop: int
    digest: bytes

    @classmethod
    def of(cls, tokenizer: Any) -> ChatTemplate:
        """The frame that the chat template of `tokenizer` writes.

        Raises ConfigError: there is none, it fails for these two turns, it changes their
        texts, it writes something else another time, or an answer doesn't go on where
        its prompt ends.
        """
        source = _source(tokenizer)
        if _AT_RANDOM.search(source):
            raise _refusal(tokenizer, _CHANGING["lipsum"])
        for name, how in _CHANGING.items():
            told = [_told(name, word) + source for word in "12"]
            for turns in (1, 2):
                if len({_around(tokenizer, each, turns) for each in told}) > 1:
                    raise _refusal(tokenizer, how)
        head, middle, lead, tail = _frame(tokenizer, source)
        end, stop = _end_of_turn(tokenizer, tail)
        texts = (head, middle, lead, end)
        parts = [text.encode() for text in texts]
        known = digest("fedit/template/chat/v1", *parts, str(stop).encode())
        return cls(*texts, stop, known)

    def prompts(self, tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
        """Every record's tokens up to where generation starts."""
        asked = [(user_text(record),) for record in records]
        return self._tokens(tokenizer, (self.head, self.middle), asked)

    def responses(self, tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
        """Every response's tokens, with the end of the turn."""
        said = [(record.response.strip(),) for record in records]
        (before,) = self._tokens(tokenizer, (self.middle,), [()])
        # Behind the words that are there before it: at the very start of a text, some
        # tokenizers begin a word with another token.
        fixed = (self.middle + self.lead, self.end)
        behind = self._tokens(tokenizer, fixed, said)
        alone = self._tokens(tokenizer, (self.lead, self.end), said)
        found = []
        for whole, part in zip(behind, alone, strict=True):
            # Where the first word merges into the prompt's last token, generation can't.
            splits = whole[: len(before)] == before
            answer = whole[len(before) :] if splits else part
            closed = answer[-1:] == [self.stop]
            found.append(answer if closed else [*answer, self.stop])
        return found

    def stops(self, tokenizer: Any) -> list[int]:
        """The tokens at which an answer is over."""
        return sorted({self.stop, tokenizer.eos_token_id} - {None})

    def conversation(
        self, tokenizer: Any, past: Sequence[tuple[str, str]], line: str
    ) -> list[int]:
        """The tokens of earlier turns (asked, answered) and `line`, to be answered.

        Without any turn before it, what `prompts` makes of an instruction. Raises
        ConfigError if the template changes or leaves out a turn before the last.
        """
        texts = [text.strip() for turn in past for text in turn] + [line.strip()]
        fixed = _around(tokenizer, _source(tokenizer), len(texts))
        return self._tokens(tokenizer, fixed, [texts])[0]

    def _tokens(
        self, tokenizer: Any, fixed: Sequence[str], texts: Sequence[Sequence[str]]
    ) -> list[list[int]]:
        """fixed[0] texts[i][0] fixed[1] texts[i][1] ... as tokens, for every i.

        Only what is fixed has control tokens: in a text their names are only words.
        """
        named = _names(tokenizer)
        joined = ["".join(_interleaved(fixed, own)) for own in texts]
        if not joined:
            return []
        # `verbose` would warn about texts that are longer than the model takes: we cut.
        options = {"add_special_tokens": False, "verbose": False}
        found: list[list[int]] = tokenizer(joined, **options)["input_ids"]
        for i, own in enumerate(texts):
            if any(named.search(text) for text in own):
                found[i] = self._as_words(tokenizer, fixed, own)
        return found

    def _as_words(
        self, tokenizer: Any, fixed: Sequence[str], texts: Sequence[str]
    ) -> list[int]:
        # The whole frame is named in it, because its control tokens are those of the
        # tokenizer, and those that are written in the template.
        frame = _literal(self.head + self.middle + self.lead + self.end)
        places = [f"{{{{ messages[{i}]['content'] }}}}" for i in range(len(texts))]
        words = [f"{{{{ {_literal(text)} }}}}" for text in fixed]
        wording = f"{{% set frame = {frame} %}}" + "".join(_interleaved(words, places))
        messages = [{"role": "user", "content": text} for text in texts]
        # It would warn of a long text, with its length.
        tokenizer.deprecation_warnings[
            "sequence-length-is-longer-than-the-specified-maximum"
        ] = True
        try:
            found: list[int] = tokenizer.apply_chat_template(
                messages or [{"role": "user", "content": ""}],
                chat_template=wording,
                sanitize_control_tokens=True,
                return_dict=False,
            )
        except ValueError:
            # Nothing of the text: it may be a silo's.
            raise ConfigError(
                f"{tokenizer.name_or_path}: a text names a control token, and this "
                "tokenizer can't write that name as words"
            ) from None
        return found


def user_text(record: Record) -> str:
    """A record's side of the conversation: its instruction, an empty line, its input."""
    return "\n\n".join(filter(str.strip, (record.instruction, record.input))).strip()


def _source(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise ConfigError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template: give another "
            "template than chat"
        ) from None


def _frame(tokenizer: Any, source: str) -> tuple[str, str, str, str]:
    """Before the user's text, after it, before the assistant's beyond that, after it."""
    head, middle = _around(tokenizer, source, 1)
    before, between, tail = _around(tokenizer, source, 2)
    if before != head or not between.startswith(middle):
        raise _refusal(tokenizer, "doesn't let an answer go on where its prompt ends")
    return head, middle, between.removeprefix(middle), tail


def _around(tokenizer: Any, source: str, turns: int) -> tuple[str, ...]:
    """What the template writes before, between and after so many turns' texts.

    The turns alternate, the user's first. After a user's, generation is asked for.
    """
    texts = [_awkward(number) for number in range(turns)]
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    try:
        left = tokenizer.apply_chat_template(
            messages,
            chat_template=source,
            tokenize=False,
            add_generation_prompt=turns % 2 == 1,
        )
    # A template raises what it likes, and what the sandbox or jinja refuse.
    except Exception as wrong:  # noqa: BLE001
        reason = " ".join(str(wrong).split())[:_LONGEST_REASON] or type(wrong).__name__
        how = f"fails for a user's and an assistant's turn: {reason}"
        raise _refusal(tokenizer, how) from None
    fixed = []
    for text in texts:
        before, found, left = left.partition(text)
        if not found or text in left:
            raise _refusal(tokenizer, "changes, repeats or leaves out what is said")
        fixed.append(before)
    return (*fixed, left)


def _awkward(number: int) -> str:
    """A text in which whatever is escaped, reflowed or recased shows."""
    return f'Q{number}z <b>&amp;</b> "it\'s"  {{{{ a }}}}\n\n\t`é` \\n{number}K.'


def _told(name: str, word: str) -> str:
    """A macro that hides what transformers offers to templates under `name`."""
    takes = "{{ '' if varargs or kwargs }}"
    return f"{{%- macro {name}() -%}}{takes}{word}{{%- endmacro -%}}"


def _end_of_turn(tokenizer: Any, tail: str) -> tuple[str, int]:
    """Up to the first control token after the answer; or, without one, the usual end."""
    added = tokenizer.added_tokens_decoder
    encoded = tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for token, (_, stop) in pairs:
        if token in added and not added[token].content.isspace():
            return tail[:stop], int(token)
    return tail.rstrip(), int(tokenizer.eos_token_id)


def _names(tokenizer: Any) -> re.Pattern[str]:
    """Matches a text with the name of a token that could be a control token."""
    added = tokenizer.added_tokens_decoder.values()
    # Some tokenizers have line ends among them, which are words like any other.
    names = [t.content for t in added if t.special or not t.content.isspace()]
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _literal(text: str) -> str:
    # jinja's string literals are Python's, and so are these.
    return json.dumps(text, ensure_ascii=False)


def _interleaved(fixed: Sequence[str], texts: Sequence[str]) -> list[str]:
    parts = [fixed[0]]
    for text, after in zip(texts, fixed[1:], strict=True):
        parts += (text, after)
    return parts


def _refusal(tokenizer: Any, how: str) -> ConfigError:
    return ConfigError(f"{tokenizer.name_or_path}: its chat template {how}")
