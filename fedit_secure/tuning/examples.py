"""Instruction records -> token examples: templates, cutting, labels. No torch.

The prompt is cut first, so that a long context can't push the response out: cut
blindly at 256 tokens, one Dolly record in five would have nothing left to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from fedit_secure.errors import ConfigError
from fedit_secure.secagg.transcript import digest
from fedit_secure.tuning.chat_template import CHAT, ChatTemplate
from fedit_secure.tuning.records import Record


class Template(Protocol):
    """How records become tokens. `digest`, 32 bytes, is what a charter pins.

    A record's own text never becomes a control token, whatever it spells.
    """

    @property
    def name(self) -> str:
        """What a plan calls it."""

    @property
    def digest(self) -> bytes:
        """Of all that decides its wording, but the tokenizer."""

    def prompts(self, tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
        """Every record's tokens up to where the response starts."""

    def responses(self, tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
        """Every response's tokens and its end. They follow the prompt's."""

    def stops(self, tokenizer: Any) -> list[int]:
        """The tokens at which an answer is over."""


@dataclass(frozen=True, slots=True)
class PackagedTemplate:
    """A prompt's wording; what follows the prompt is the response.

    `with_input` and `without_input` hold `{instruction}` once; `with_input` holds
    `{input}` once after it. `digest` is of the template's file.
    """

    name: str
    with_input: str
    without_input: str
    digest: bytes

    def prompt(self, record: Record) -> str:
        """The prompt of `record`, up to where the response starts."""
        # Not str.format: a record's own braces must stay as they are.
        wording = self.with_input if record.input.strip() else self.without_input
        before, after = wording.split("{instruction}")
        return before + record.instruction + after.replace("{input}", record.input)

    def prompts(self, tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
        """The prompts' tokens, with what the tokenizer puts before every text."""
        return _encoded(tokenizer, [self.prompt(record) for record in records])

    def responses(self, tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
        """The responses' tokens, each with the end-of-sequence token."""
        texts = [record.response for record in records]
        found = _encoded(tokenizer, texts, add_special_tokens=False)
        return [[*tokens, tokenizer.eos_token_id] for tokens in found]

    def stops(self, tokenizer: Any) -> list[int]:
        """The end-of-sequence token."""
        return [tokenizer.eos_token_id]


@dataclass(frozen=True, slots=True)
class Example:
    """One record as tokens.

    Attributes:
        tokens: int64, shape (length,): the prompt, then the response.
        first_label: position of the first token that the loss counts; `length` when
            there is none, and the record's gradient is then zero.
    """

    tokens: npt.NDArray[np.int64]
    first_label: int

    @property
    def labels(self) -> int:
        """Tokens that the loss counts."""
        return len(self.tokens) - self.first_label


def require_template(name: str) -> None:
    """Raises ConfigError that lists the known ones if `name` isn't one of them."""
    known = sorted([CHAT, *_packaged()])
    if name not in known:
        raise ConfigError(f"unknown template {name!r}; known are {', '.join(known)}")


def load_template(
    name: str, tokenizer: Any = None, agreed: str | None = None
) -> Template:
    """The template `name`; "chat" is the one that `tokenizer` brings, others need none.

    `agreed` is a charter's digest of it, in hexadecimal. Raises ConfigError: it is
    unknown or another than was agreed on, or as `ChatTemplate.of` does.
    """
    require_template(name)
    found: Template
    if name == CHAT:
        _refuse_tokenizer(tokenizer)
        found = ChatTemplate.of(tokenizer)
    else:
        found = packaged_template(name)
    if agreed is not None and found.digest.hex() != agreed:
        raise ConfigError(
            f"the template {name!r} isn't the one that was agreed on: its digest is "
            f"{found.digest.hex()[:16]}..., not {agreed[:16]}..."
        )
    return found


def packaged_template(name: str) -> PackagedTemplate:
    """The packaged template `name`, whatever the tokenizer. Raises ConfigError."""
    if name not in _packaged():
        raise ConfigError(f"no packaged template has the name {name!r}")
    content = (_folder() / f"{name}.json").read_bytes()
    wording = json.loads(content)
    return PackagedTemplate(**wording, digest=digest("fedit/template/v1", content))


def _refuse_tokenizer(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    if end is None or not tokenizer.is_fast:
        lack = "end-of-sequence token" if end is None else "fast (Rust) version"
        raise ConfigError(f"the tokenizer {tokenizer.name_or_path!r} has no {lack}")


def _folder() -> Traversable:
    return resources.files("fedit_secure.tuning") / "templates"


def _packaged() -> list[str]:
    return [file.name.removesuffix(".json") for file in _folder().iterdir()]


def make_examples(
    records: Sequence[Record],
    tokenizer: Any,
    template: Template | str,
    max_tokens: int,
    *,
    response_only: bool = True,
) -> list[Example]:
    """One example per record, in order: slot i is record i.

    A response keeps its end, which is a label too, unless it was cut.
    What is too long loses, in this order: the end of its input, the end of its
    instruction, the end of its response beyond half of `max_tokens`, the start of the
    template.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        template: a template, or its name.
        max_tokens: longest example, in tokens.
        response_only: count the response's tokens in the loss; else every token that
            has a predecessor.

    Raises:
        ConfigError: the tokenizer isn't a fast one, or has no end-of-sequence token.
    """
    _refuse_tokenizer(tokenizer)
    if not records:
        return []
    if isinstance(template, str):
        template = load_template(template, tokenizer)
    responses = template.responses(tokenizer, records)
    rooms = [max_tokens - min(len(r), max_tokens // 2) for r in responses]
    prompts = _fitting_prompts(list(records), rooms, tokenizer, template)
    examples = []
    for prompt, response in zip(prompts, responses, strict=True):
        tokens = np.array([*prompt, *response][:max_tokens], np.int64)
        examples.append(Example(tokens, len(prompt) if response_only else 1))
    return examples


def uncut_lengths(
    records: Sequence[Record], tokenizer: Any, template: Template
) -> tuple[list[int], list[int]]:
    """Tokens of every prompt, and of every response with its end, before any cut."""
    prompts = template.prompts(tokenizer, records)
    responses = template.responses(tokenizer, records)
    return [len(prompt) for prompt in prompts], [len(said) for said in responses]


def _encoded(tokenizer: Any, texts: list[str], **options: Any) -> list[list[int]]:
    if not texts:
        return []
    # `verbose` would warn about texts that are longer than the model takes: we cut.
    # Split: "</s>" in a record is four characters, and no end.
    found = tokenizer(texts, verbose=False, split_special_tokens=True, **options)
    return cast("list[list[int]]", found["input_ids"])


def _fitting_prompts(
    records: list[Record], rooms: list[int], tokenizer: Any, template: Template
) -> list[list[int]]:
    """Prompt i, shortened by its input and then its instruction to `rooms[i]` tokens.

    Works on all prompts that are still too long at once: the tokenizer is fast on
    batches. Texts are cut, not tokens, so a cut prompt tokenizes as any other.
    """
    prompts = template.prompts(tokenizer, records)
    for field in ("input", "instruction"):
        long = [i for i, p in enumerate(prompts) if len(p) > rooms[i]]
        ends = _token_ends(tokenizer, [getattr(records[i], field) for i in long])
        while long:
            for i, end in zip(long, ends, strict=True):
                # Tokens merge across the cut, so one try can miss by a few.
                del end[max(0, len(end) - (len(prompts[i]) - rooms[i])) :]
                text = getattr(records[i], field)[: end[-1] if end else 0]
                records[i] = _replaced(records[i], field, text)
            again = template.prompts(tokenizer, [records[i] for i in long])
            for i, prompt in zip(long, again, strict=True):
                prompts[i] = prompt
            still = [
                k for k, i in enumerate(long) if len(prompts[i]) > rooms[i] and ends[k]
            ]
            long, ends = [long[k] for k in still], [ends[k] for k in still]
    return [p[max(0, len(p) - room) :] for p, room in zip(prompts, rooms, strict=True)]


def _token_ends(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """For every text, the character position at which each of its tokens ends."""
    if not texts:
        return []
    options = {"add_special_tokens": False, "return_offsets_mapping": True}
    encoded = tokenizer(texts, verbose=False, **options)
    return [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]


def _replaced(record: Record, field: str, text: str) -> Record:
    values = {"instruction": record.instruction, "input": record.input, field: text}
    return Record(**values, response=record.response)
