"""How well a model answers: response NLL, greedy answers, ROUGE-L and exact match.

NLL is what decisions rest on; ROUGE-L and exact match of short greedy answers describe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.batches import Packing, physical_batch
from fedit_secure.tuning.examples import Template, make_examples
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET
from fedit_secure.tuning.record_loss import device_of, selects_labels
from fedit_secure.tuning.record_nlls import record_nlls
from fedit_secure.tuning.records import Record

OnProgress = Callable[[int, int], None]
"""Told after every batch: records or prompts done, and of how many."""

NO_CATEGORY = "all"
"""The category under which records without one are reported."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Response NLL in nats: a record's is the mean over its own response tokens.

    Attributes:
        nll: mean over the records.
        per_category: mean over the records of each category.
        n: records that were scored.
        skipped: records of which the cut left no response token.
        record_nlls: float64, shape (n,): in the records' order, without the skipped.
        slots: int64, shape (n,): which record each of them is.
    """

    nll: float
    per_category: dict[str, float]
    n: int
    skipped: int
    record_nlls: npt.NDArray[np.float64]
    slots: npt.NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        """exp(nll): of the records' geometric means, not of the pooled tokens."""
        return float(np.exp(self.nll))


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """Greedy answers against the references, from 0 to 1.

    Attributes:
        rouge_l: mean ROUGE-L F-measure over the answers.
        exact_match: share of answers that equal the reference, white space aside.
        per_category: mean ROUGE-L of each category.
        n: answers.
    """

    rouge_l: float
    exact_match: float
    per_category: dict[str, float]
    n: int


def score(
    model: nn.Module,
    tokenizer: Any,
    records: Sequence[Record],
    template: Template,
    max_tokens: int,
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    on_progress: OnProgress | None = None,
) -> Scores:
    """Score the responses of `records`, cut as tuning would cut them.

    Args:
        model: a causal language model, with or without an adapter. Left in the mode
            that it was in.
        tokenizer: a fast Hugging Face tokenizer.
        max_tokens: longest record in tokens, template included.
        token_budget: tokens of one batch with padding; changes speed and memory only.

    Raises:
        ConfigError: no record has a response token to score.
    """
    examples = make_examples(records, tokenizer, template, max_tokens=max_tokens)
    slots = np.flatnonzero([e.labels > 0 for e in examples]).astype(np.int64)
    if not len(slots):
        raise ConfigError("there is no record with a response to score")
    was_training = model.training
    model.eval()
    try:
        selective = selects_labels(model, physical_batch(examples, slots[:2]))
        nlls = record_nlls(
            model,
            examples,
            slots,
            Packing(token_budget),
            selective=selective,
            on_progress=on_progress,
        )[slots]
    finally:
        model.train(was_training)
    return Scores(
        nll=float(nlls.mean()),
        per_category=_by_category([records[slot] for slot in slots.tolist()], nlls),
        n=len(slots),
        skipped=len(examples) - len(slots),
        record_nlls=nlls,
        slots=slots,
    )


def cut_prompts(
    model: nn.Module,
    tokenizer: Any,
    records: Sequence[Record],
    template: Template,
    max_new_tokens: int,
) -> list[list[int]]:
    """Every record's prompt as tokens, cut as tuning cuts it, so that an answer fits.

    The reference has no part in it. Raises ConfigError: nothing of the model's positions
    would be left for a prompt.
    """
    positions = positions_of(model)
    if positions is None:
        positions = max(1 << 20, max_new_tokens + 3)
    if max_new_tokens + 2 >= positions:
        raise ConfigError(
            f"an answer of {max_new_tokens} tokens leaves no room for a prompt in the "
            f"model's {positions} positions"
        )
    # One token and the end stand for the answer: the cut then leaves it `max_new_tokens`.
    blank = [replace(record, response="a") for record in records]
    room = positions - max_new_tokens + 2
    examples = make_examples(blank, tokenizer, template, max_tokens=room)
    return [example.tokens[: example.first_label].tolist() for example in examples]


@torch.no_grad()
def continue_prompts(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stops: Sequence[int] | None = None,
    batch: int = 64,
    on_progress: OnProgress | None = None,
) -> list[str]:
    """Greedy answers to `prompts`, in their order, without special tokens.

    Prompts of similar lengths go through the model together, padded on the left; the
    padding is masked.

    Args:
        model: a causal language model of transformers, with or without an adapter.
        prompts: whole prompts as tokens, such as `cut_prompts` makes them.
        max_new_tokens: longest answer, in tokens.
        stops: tokens that end an answer; None for the tokenizer's end of sequence.
        batch: prompts that go through the model together.

    Raises:
        ConfigError: a prompt and its answer don't fit into the model's positions, or the
            tokenizer has no padding.
    """
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"the tokenizer {tokenizer.name_or_path!r} has no padding")
    lengths = [len(tokens) for tokens in prompts]
    _refuse_too_long(model, max(lengths, default=0), max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda index: lengths[index])
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            asked = tokenizer.pad(
                {"input_ids": [list(prompts[index]) for index in some]},
                padding_side="left",
                return_tensors="pt",
            ).to(device_of(model))
            said = model.generate(  # type: ignore[operator]
                **asked,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=list(stops or [tokenizer.eos_token_id]),
            )
            new = said[:, asked["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            for index, text in zip(some, texts, strict=True):
                answers[index] = text.strip()
            if on_progress is not None:
                on_progress(start + len(some), len(order))
    finally:
        model.train(was_training)
    return answers


def positions_of(model: nn.Module) -> int | None:
    """The longest sequence that the model takes, where it says so."""
    config = getattr(model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else int(positions)


def _refuse_too_long(model: nn.Module, prompt: int, answer: int) -> None:
    positions = positions_of(model)
    if positions is not None and prompt + answer > positions:
        raise ConfigError(
            f"a prompt of {prompt} tokens and an answer of {answer} don't fit into the "
            f"model's {positions} positions"
        )


def rate_answers(answers: Sequence[str], records: Sequence[Record]) -> AnswerScores:
    """Compare each answer with its record's response (ROUGE-L: Lin 2004, no stemming).

    Raises:
        ConfigError: there is nothing to rate.
        ValueError: not one answer per record.
    """
    from rouge_score.rouge_scorer import RougeScorer

    if not records:
        raise ConfigError("there is no answer to rate")
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    rouge, exact = [], []
    for answer, record in zip(answers, records, strict=True):
        rouge.append(scorer.score(record.response, answer)["rougeL"].fmeasure)
        exact.append(answer.split() == record.response.split())
    return AnswerScores(
        rouge_l=float(np.mean(rouge)),
        exact_match=float(np.mean(exact)),
        per_category=_by_category(records, rouge),
        n=len(records),
    )


def _by_category(
    records: Sequence[Record], values: Iterable[float]
) -> dict[str, float]:
    """The mean of `values`, one per record, over each category, sorted by its name."""
    groups: dict[str, list[float]] = defaultdict(list)
    for record, value in zip(records, values, strict=True):
        groups[record.category or NO_CATEGORY].append(float(value))
    return {name: float(np.mean(groups[name])) for name in sorted(groups)}
