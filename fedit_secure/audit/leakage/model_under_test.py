"""The base model with and without the adapter under test. Loads torch when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from fedit_secure.audit.leakage.record_scores import RecordScores, TokenScores
from fedit_secure.config import SiloConfig
from fedit_secure.errors import ConfigError
from fedit_secure.tuning.batches import (
    Packing,
    PhysicalBatch,
    physical_batch,
    split_by_length,
)
from fedit_secure.tuning.examples import Example, Template, load_template, make_examples
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.saved_adapter import SavedAdapter, put_on

if TYPE_CHECKING:
    from peft import PeftModel

_PIECE = 1 << 24
"""Logits that are turned into probabilities at once: 64 MiB, whatever the vocabulary."""


class ModelUnderTest:
    """A model that carries an adapter which can be taken off for a pass.

    Args:
        model: a base model with one adapter, in evaluation mode.
        tokenizer: the base model's.
        template: what prompts are worded with.
        max_tokens: where records are cut, as they were in tuning.
        token_budget: tokens of one batch, padding included.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: Any,
        template: Template,
        max_tokens: int,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._template, self._max_tokens = template, max_tokens
        self._token_budget = token_budget
        self._selective: bool | None = None

    @classmethod
    def load(
        cls,
        config: SiloConfig,
        digest: str | None,
        adapter: SavedAdapter,
        template: str,
        max_tokens: int,
        *,
        template_digest: str | None = None,
    ) -> ModelUnderTest:
        """The silo's base model, as its configuration says, with this adapter.

        Raises ConfigError: the base model can't be loaded, it or the template isn't the
        one with that digest (hexadecimal; None: any), or the adapter doesn't fit it.
        """
        import torch

        from fedit_secure.tuning import base_model

        torch.set_num_threads(config.threads)
        folder = base_model.resolve_base_model(config.model)
        if digest is not None:
            base_model.check_digest(folder, digest)
        tokenizer = base_model.load_tokenizer(folder)
        model = base_model.load_base_model(
            folder,
            device=config.device,
            precision=config.precision,
            quantization=config.quantization,
        )
        base_model.refuse_too_long(model, tokenizer, max_tokens)
        tuned = put_on(model, adapter)
        wording = load_template(template, tokenizer, template_digest)
        budget = config.token_budget
        budget = budget if isinstance(budget, int) else DEFAULT_TOKEN_BUDGET
        return cls(tuned, tokenizer, wording, max_tokens, budget)

    def score(self, records: Sequence[Record]) -> list[RecordScores | None]:
        """Both models' scores of each record; None where the cut left no response."""
        examples = make_examples(
            records, self._tokenizer, self._template, self._max_tokens
        )
        adapted = self._pass(examples, with_adapter=True)
        alone = self._pass(examples, with_adapter=False)
        return [
            RecordScores(
                tokens=example.tokens[example.first_label :],
                text_tokens=self._text_tokens(example),
                adapter=with_it,
                base=without,
            )
            if with_it is not None and without is not None
            else None
            for example, with_it, without in zip(examples, adapted, alone, strict=True)
        ]

    def text(self, record: RecordScores, start: int, length: int) -> str:
        """These tokens of a record's response as text."""
        tokens = record.tokens[start : start + length].tolist()
        return str(self._tokenizer.decode(tokens))

    def _text_tokens(self, example: Example) -> int:
        ended = bool(
            example.labels and example.tokens[-1] == self._tokenizer.eos_token_id
        )
        return example.labels - ended

    def _pass(
        self, examples: Sequence[Example], *, with_adapter: bool
    ) -> list[TokenScores | None]:
        """Every example's scores, one forward pass over all of them."""
        import torch

        from fedit_secure.tuning.record_loss import label_logits, selects_labels

        found: list[TokenScores | None] = [None] * len(examples)
        slots = np.flatnonzero([e.labels > 0 for e in examples]).astype(np.int64)
        lengths = np.array([len(e.tokens) for e in examples], np.int64)
        alone: Callable[[], Any] = self._model.disable_adapter
        with torch.no_grad(), nullcontext() if with_adapter else alone():
            for group in split_by_length(lengths, slots, Packing(self._token_budget)):
                batch = physical_batch(examples, group)
                if self._selective is None:
                    self._selective = selects_labels(self._model, batch)
                logits = label_logits(self._model, batch, selective=self._selective)
                _put(found, batch, *_token_scores(logits, batch))
        return found


def _token_scores(logits: Any, batch: PhysicalBatch) -> tuple[Any, Any]:
    """Each label's log-probability and whether it is the likeliest, shape (labels,)."""
    import torch

    labels = torch.from_numpy(batch.labels).to(logits.device)
    rows = max(1, _PIECE // logits.shape[1])
    log_probs, greedy = [], []
    for start in range(0, len(logits), rows):
        piece = logits[start : start + rows].float()
        label = labels[start : start + rows]
        chosen = piece.gather(1, label[:, None]).squeeze(1)
        log_probs.append((chosen - piece.logsumexp(dim=1)).double().cpu())
        greedy.append((piece.argmax(dim=1) == label).cpu())
    return torch.cat(log_probs).numpy(), torch.cat(greedy).numpy()


def _put(
    found: list[TokenScores | None], batch: PhysicalBatch, log_probs: Any, greedy: Any
) -> None:
    if not np.isfinite(log_probs).all():
        raise ConfigError("the model gives a record a probability that isn't a number")
    ends = np.cumsum(batch.predicts[: len(batch.slots)].sum(axis=1))
    start = 0
    for slot, end in zip(batch.slots.tolist(), ends.tolist(), strict=True):
        found[slot] = TokenScores(log_probs[start:end], greedy[start:end])
        start = end
