"""Several models on the same records: what each scores, and by how much it is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.intervals import interval
from fedit_secure.evaluation.score import (
    NO_CATEGORY,
    AnswerScores,
    Scores,
    continue_prompts,
    cut_prompts,
    rate_answers,
    score,
)
from fedit_secure.tuning.examples import Template
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET
from fedit_secure.tuning.records import Record

OnStep = Callable[[str, int, int], None]
"""Told what is being done ("base: NLL"), how many records of it, and of how many."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How records are scored.

    Attributes:
        template: what prompts are worded with.
        max_tokens: where a record is cut, as in tuning.
        max_new_tokens: longest greedy answer; 0: none, and no ROUGE-L.
        batch: prompts that are answered together.
        token_budget: tokens of one scored batch, padding included.
        confidence: of the intervals, between 0 and 1.
        seed: of the bootstrap.
    """

    template: Template
    max_tokens: int = 256
    max_new_tokens: int = 64
    batch: int = 32
    token_budget: int = DEFAULT_TOKEN_BUDGET
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one category; `category` None is all records.

    NLL in nats per response token, mean over records; `nll_minus_base` with the ends of
    its bootstrap interval, None for the base itself and where one record has no interval;
    ROUGE-L and exact match from 0 to 1, None without answers.
    """

    model: str
    category: str | None
    records: int
    nll: float
    perplexity: float
    nll_minus_base: float | None
    low: float | None
    high: float | None
    rouge_l: float | None
    exact_match: float | None


@dataclass(frozen=True, slots=True)
class SideBySide:
    """`rows` by model, all records before their categories; `answers` by model, one per
    record, empty without; `skipped`: records that the cut left nothing of to score."""

    rows: list[Row]
    answers: dict[str, list[str]]
    skipped: int


def side_by_side(
    contenders: Contenders,
    records: Sequence[Record],
    settings: Settings,
    on_step: OnStep = lambda *_: None,
) -> SideBySide:
    """Score every contender on `records`, and compare it with the base record by record.

    Raises ConfigError as `Contenders.each` and `score` do.
    """
    rows: list[Row] = []
    answers: dict[str, list[str]] = {}
    base: Scores | None = None
    skipped = 0
    for name, model, tokenizer in contenders.each(settings.max_tokens):
        scores = score(
            model,
            tokenizer,
            records,
            settings.template,
            settings.max_tokens,
            token_budget=settings.token_budget,
            on_progress=partial(on_step, f"{name}: NLL"),
        )
        if settings.max_new_tokens:
            prompts = cut_prompts(
                model, tokenizer, records, settings.template, settings.max_new_tokens
            )
            answers[name] = continue_prompts(
                model,
                tokenizer,
                prompts,
                settings.max_new_tokens,
                stops=settings.template.stops(tokenizer),
                batch=settings.batch,
                on_progress=partial(on_step, f"{name}: answers"),
            )
        rows += _rows(name, records, scores, base, answers.get(name), settings)
        base, skipped = base or scores, scores.skipped
    return SideBySide(rows, answers, skipped)


def _rows(
    name: str,
    records: Sequence[Record],
    scores: Scores,
    base: Scores | None,
    answers: list[str] | None,
    settings: Settings,
) -> list[Row]:
    # The same tokenizer and cut leave the same records, whatever the model.
    if base is not None and not np.array_equal(base.slots, scores.slots):
        raise ConfigError(f"{name}: scores other records than the base model does")
    categories = np.array([record.category or NO_CATEGORY for record in records])
    groups: list[tuple[str | None, npt.NDArray[np.bool_]]]
    groups = [(None, np.ones(len(records), bool))]
    found = sorted({record.category for record in records if record.category})
    groups += [(category, categories == category) for category in found]
    rows = []
    for category, chosen in groups:
        here = chosen[scores.slots]
        if not here.any():
            continue
        nlls = scores.record_nlls[here]
        against = None if base is None else nlls - base.record_nlls[here]
        low, high = interval(against, settings.confidence, settings.seed)
        rated = _rated(answers, records, chosen)
        rows.append(
            Row(
                model=name,
                category=category,
                records=int(here.sum()),
                nll=float(nlls.mean()),
                perplexity=float(np.exp(nlls.mean())),
                nll_minus_base=None if against is None else float(against.mean()),
                low=low,
                high=high,
                rouge_l=None if rated is None else rated.rouge_l,
                exact_match=None if rated is None else rated.exact_match,
            )
        )
    return rows


def _rated(
    answers: list[str] | None, records: Sequence[Record], chosen: npt.NDArray[np.bool_]
) -> AnswerScores | None:
    if answers is None:
        return None
    slots = np.flatnonzero(chosen).tolist()
    return rate_answers([answers[s] for s in slots], [records[s] for s in slots])
