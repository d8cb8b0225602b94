"""What a model with and without an adapter says to one record's response. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TokenScores:
    """One model's scores of a response's tokens, each given all true tokens before it.

    Attributes:
        log_probs: float64, shape (tokens,), in nats.
        greedy: bool, shape (tokens,): the token is the one that the model finds likeliest.
    """

    log_probs: npt.NDArray[np.float64]
    greedy: npt.NDArray[np.bool_]

    @property
    def mean(self) -> float:
        """Minus the loss that tuning counts: the mean over the response's tokens."""
        return float(self.log_probs.mean())

    def lowest(self, share: float) -> float:
        """The mean over the `share` of tokens that are least likely, at least one."""
        count = max(1, int(share * len(self.log_probs)))
        return float(np.partition(self.log_probs, count - 1)[:count].mean())


@dataclass(frozen=True, slots=True)
class RecordScores:
    """A record's response under both models.

    Attributes:
        tokens: int64, shape (tokens,): the response as tuning counts it, with its
            end-of-sequence token unless it was cut.
        text_tokens: how many of them are text.
        adapter: the base model with the adapter.
        base: the base model alone, which never saw the record.
    """

    tokens: npt.NDArray[np.int64]
    text_tokens: int
    adapter: TokenScores
    base: TokenScores
