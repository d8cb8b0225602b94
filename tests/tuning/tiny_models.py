"""Tiny random models and records: real architectures, no downloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.batches import Packing, Slots
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example
from fedit_secure.tuning.job import LoraConfig

VOCABULARY = 300
SHAPES = {
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    },
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 128},
    # Soft-caps its logits: whoever goes round its forward gets other gradients.
    "gemma2": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "final_logit_softcapping": 0.5,
        "max_position_embeddings": 128,
    },
    # Scales its logits, after the head.
    "granite": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "logits_scaling": 4.0,
        "max_position_embeddings": 128,
    },
}


def base_model(family: str = "llama", layers: int = 1) -> PreTrainedModel:
    """A small model of random weights, the same at every call."""
    depth = {} if family == "gpt2" else {"num_hidden_layers": layers}
    config = AutoConfig.for_model(
        family,
        **SHAPES[family],
        **depth,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # larger than usual, so that gradients clip
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.float().requires_grad_(False).eval()


def tuned_model(family: str = "llama", layers: int = 1, rank: int = 3) -> PeftModel:
    """A base model with a LoRA adapter whose A and B are both away from zero."""
    model = attach_adapter(base_model(family, layers), LoraConfig(rank=rank, alpha=6))
    random = np.random.default_rng(3)
    vector = random.normal(0, 0.3, read_adapter(model).shape).astype("f4")
    write_adapter(model, vector)
    return model


def random_examples(count: int, longest: int = 20, seed: int = 0) -> list[Example]:
    """Records of random tokens and lengths; every one has a label."""
    random = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        length = int(random.integers(2, longest + 1))
        first = int(random.integers(1, length))
        examples.append(Example(random.integers(3, VOCABULARY, length), first))
    return examples


def zeroed(examples: Sequence[Example], slot: int) -> list[Example]:
    """The neighbour: the record's place is kept, its content is gone."""
    neighbour = list(examples)
    neighbour[slot] = Example(examples[slot].tokens[:1], 1)
    return neighbour


def make_plan(**changes: object) -> DpPlan:
    """A small DP plan."""
    values = {
        "sample_rate": 0.5,
        "noise_multiplier": 1.0,
        "clip": 0.1,
        "expected_batch": 8,
        "local_steps": 2,
        "rounds": 1,
        "delta": 1e-5,
    }
    if changes.get("kind") == "none":
        values |= {"noise_multiplier": 0.0, "delta": None}
    return DpPlan(**(values | changes))  # type: ignore[arg-type]


class Sums(BatchGradient):
    """Sums as numpy arrays, under a token budget."""

    def __init__(
        self,
        model: PeftModel,
        examples: list[Example],
        *,
        clip: float | None,
        selective: bool = True,
        budget: int = 60,
        **options: Any,
    ) -> None:
        options.setdefault("packing", Packing(budget))
        super().__init__(model, examples, clip=clip, selective=selective, **options)

    def sum(self, units: Slots, step: int = 0) -> np.ndarray:  # type: ignore[override]
        return super().sum(units, step).numpy()
