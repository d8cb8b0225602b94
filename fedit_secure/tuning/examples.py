"""Instruction records -> token examples: templates, cutting, labels. No torch.

The prompt is cut first, so that a long context can't push the response out: cut
blindly at 256 tokens, one Dolly record in five would have nothing left to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fedit_secure.errors import ConfigError
from fedit_secure.secagg.transcript import digest
from fedit_secure.tuning.records import Record


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt's wording; what follows the prompt is the response.

    `with_input` and `without_input` hold `{instruction}` once; `with_input` holds
    `{input}` once after it.
    `digest` is the 32-byte digest of the template's file: a charter names it.
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


def load_template(name: str) -> Template:
    """The packaged template `name`. Raises ConfigError that lists the known ones."""
    folder = resources.files("fedit_secure.tuning") / "templates"
    known = sorted(f.name.removesuffix(".json") for f in folder.iterdir())
    if name not in known:
        raise ConfigError(f"unknown template {name!r}; known are {', '.join(known)}")
    content = (folder / f"{name}.json").read_bytes()
    return Template(**json.loads(content), digest=digest("fedit/template/v1", content))


def template_digest(name: str) -> bytes:
    """The 32-byte digest of the packaged template `name`, which a charter names."""
    return load_template(name).digest


def make_examples(
    records: Sequence[Record],
    tokenizer: Any,
    template: Template | str,
    max_tokens: int,
    *,
    response_only: bool = True,
) -> list[Example]:
    """One example per record, in order: slot i is record i.

    A response keeps its end-of-sequence token, which is a label too, unless it was cut.
    What is too long loses, in this order: the end of its input, the end of its
    instruction, the end of its response beyond half of `max_tokens`, the start of the
    template.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        template: a template, or the name of a packaged one.
        max_tokens: longest example, in tokens.
        response_only: count the response's tokens in the loss; else every token that
            has a predecessor.

    Raises:
        ConfigError: the tokenizer isn't a fast one, or has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None or not tokenizer.is_fast:
        lack = "end-of-sequence token" if end is None else "fast (Rust) version"
        raise ConfigError(f"the tokenizer {tokenizer.name_or_path!r} has no {lack}")
    if not records:
        return []
    if isinstance(template, str):
        template = load_template(template)
    responses = [[*tokens, end] for tokens in _response_tokens(tokenizer, records)]
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
    prompts = _encode(tokenizer, [template.prompt(record) for record in records])
    responses = _response_tokens(tokenizer, records)
    return [len(p) for p in prompts["input_ids"]], [len(r) + 1 for r in responses]


def _encode(tokenizer: Any, texts: list[str], **options: Any) -> Any:
    # `verbose` would warn about texts that are longer than the model takes: we cut.
    return tokenizer(texts, verbose=False, **options)


def _response_tokens(tokenizer: Any, records: Sequence[Record]) -> list[list[int]]:
    responses = [record.response for record in records]
    encoded = _encode(tokenizer, responses, add_special_tokens=False)
    return cast("list[list[int]]", encoded["input_ids"])


def _fitting_prompts(
    records: list[Record], rooms: list[int], tokenizer: Any, template: Template
) -> list[list[int]]:
    """Prompt i, shortened by its input and then its instruction to `rooms[i]` tokens.

    Works on all prompts that are still too long at once: the tokenizer is fast on
    batches. Texts are cut, not tokens, so a cut prompt tokenizes as any other.
    """
    prompts = _encode(tokenizer, [template.prompt(r) for r in records])["input_ids"]
    for field in ("input", "instruction"):
        long = [i for i, p in enumerate(prompts) if len(p) > rooms[i]]
        ends = _token_ends(tokenizer, [getattr(records[i], field) for i in long])
        while long:
            for i, end in zip(long, ends, strict=True):
                # Tokens merge across the cut, so one try can miss by a few.
                del end[max(0, len(end) - (len(prompts[i]) - rooms[i])) :]
                text = getattr(records[i], field)[: end[-1] if end else 0]
                records[i] = _replaced(records[i], field, text)
            texts = [template.prompt(records[i]) for i in long]
            for i, p in zip(long, _encode(tokenizer, texts)["input_ids"], strict=True):
                prompts[i] = p
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
    encoded = _encode(tokenizer, texts, **options)
    return [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]


def _replaced(record: Record, field: str, text: str) -> Record:
    values = {"instruction": record.instruction, "input": record.input, field: text}
    return Record(**values, response=record.response)
