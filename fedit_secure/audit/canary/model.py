"""A causal language model in which a record's gradient is what we want it to be.

What is audited is the tuning code, and it takes any causal language model. So nothing of
it is replaced, wrapped or told that it is audited: it is given this model. One linear
layer with a LoRA adapter of rank 1 maps the embedding x of each token to one number z,
and token v has the logit z * w_v. B is frozen at 1, so the adapter is A alone, and the
gradient of a token's loss by A is (E[w] - w_label) * x: the direction is the embedding's.
A canary is a record of two tokens, its own and `YES`; its gradient is a multiple of its
own embedding, far longer than the clip, and after the clip exactly C long.

The embeddings are rows of a Hadamard matrix whose columns have random signs: orthogonal
to each other, and spread evenly over all coordinates. What lies outside of their span in
a released sum is noise and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from fedit_secure.tuning.adapter import attach_adapter
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig

COORDINATES = 8192
"""d, a power of two."""

BYTES = 256
YES = BYTES
"""Tokens: the bytes of texts, the canaries' label, the canaries."""

STRETCH = 64.0
"""About how long a canary's gradient is before the clip: many times C."""

_MOST_CANARIES = COORDINATES // 2 - BYTES - 1


class _Config(PretrainedConfig):
    model_type = "fedit-canary"

    def __init__(self, **options: Any) -> None:
        super().__init__(tie_word_embeddings=False, **options)


class _Steerable(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    config_class = _Config

    def __init__(self, rows: npt.NDArray[np.float64], seed: int) -> None:
        super().__init__(_Config())
        weight = torch.from_numpy((rows * STRETCH).astype(np.float32))
        self.embedding = nn.Embedding.from_pretrained(weight)
        self.reader = nn.Linear(COORDINATES, 1, bias=False)
        nn.init.zeros_(self.reader.weight)
        random = np.random.default_rng((seed, 1))
        signs = random.permutation(np.tile([-1.0, 1.0], BYTES // 2))
        words = np.zeros(len(rows))
        words[:BYTES], words[YES] = signs, 1.0
        self.register_buffer("words", torch.from_numpy(words.astype(np.float32)))

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which the tuning code asks for."""
        return self.embedding

    def forward(
        self, input_ids: Tensor, logits_to_keep: Tensor | None = None, **_: Any
    ) -> CausalLMOutput:
        """Logits, float32 (rows, tokens, vocabulary), or of the positions kept."""
        read = self.reader(self.embedding(input_ids))
        if logits_to_keep is not None:
            read = read[logits_to_keep]
        return CausalLMOutput(logits=read * self.words)  # type: ignore[arg-type]


def directions(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Orthonormal rows, shape (count, COORDINATES), every entry of the same size."""
    random = np.random.default_rng((seed, 0))
    rows = random.choice(COORDINATES, count, replace=False)
    crossed = np.bitwise_count(rows[:, None] & np.arange(COORDINATES)) & 1
    signs = random.choice([-1.0, 1.0], COORDINATES)
    found: npt.NDArray[np.float64] = (1.0 - 2.0 * crossed) * signs
    return found / np.sqrt(COORDINATES)


class CanaryModel:
    """The model with its adapter, and what its coordinates mean.

    Args:
        canaries: how many; they are tokens, each a direction of its own.
        seed: of the directions. They needn't be secret from the code that is audited.

    Attributes:
        tuned: the PeftModel that tuning takes.
        rows: float64, (canaries, COORDINATES): each canary's direction.

    Raises:
        ValueError: too many canaries, or none.
    """

    def __init__(self, canaries: int, seed: int) -> None:
        if not 1 <= canaries <= _MOST_CANARIES:
            raise ValueError(
                f"canaries is {canaries}, but must be in 1..{_MOST_CANARIES}"
            )
        self._span = directions(BYTES + 1 + canaries, seed)
        self.rows = self._span[BYTES + 1 :]
        model = _Steerable(self._span, seed)
        model.requires_grad_(False)
        model.train(False)
        lora = LoraConfig(rank=1, alpha=1.0, targets=("reader",))
        self.tuned: PeftModel = attach_adapter(model, lora)
        for name, parameter in self.tuned.named_parameters():
            if ".lora_B." in name:
                nn.init.ones_(parameter)
                parameter.requires_grad_(False)

    def outside(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What of `sums`, (n, COORDINATES), no record can have caused: noise alone."""
        return sums - (sums @ self._span.T) @ self._span

    @property
    def outside_dimensions(self) -> int:
        """In how many dimensions `outside` lies."""
        return COORDINATES - len(self._span)


def canary_example(canary: int) -> Example:
    """The record of a canary: its own token, then the one label."""
    return Example(np.array([BYTES + 1 + canary, YES], np.int64), 1)


def left_out(example: Example) -> Example:
    """The same place with nothing in it: a record zeroed out, as neighbours have it."""
    return Example(example.tokens[:1], 1)
