"""The smallest base model that a federation can tune, and a word that overflows in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.adapter import attach_adapter, read_adapter
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.local_round import prepare_round

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SIZE = 1200
MOST_TOKENS = 64


def save_base(folder: Path) -> tuple[list[str], str]:
    """Save model and tokenizer; returns the words, and one more that overflows.

    That word's embedding is infinite, so the loss of a record with it isn't a number. The
    synthetic records of the checks don't have it.
    """
    words = [f"word{number}" for number in range(SIZE - len(SPECIAL))]
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad", "bos", "eos", "unk"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{k}_token": v for k, v in names.items()}
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=MOST_TOKENS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    strange = max(set(range(len(SPECIAL), SIZE)) - tokens_of_checks(model))
    with torch.no_grad():
        model.get_input_embeddings().weight[strange] = torch.inf
    model.save_pretrained(folder)
    overflowing = words.pop(strange - len(SPECIAL))
    return words, overflowing


def tokens_of_checks(model: LlamaForCausalLM) -> set[int]:
    """The tokens of all synthetic records that are tried before a charge."""
    seen: set[int] = set()

    def note(_module: object, entered: tuple[torch.Tensor, ...]) -> None:
        seen.update(entered[0].flatten().tolist())

    plan = DpPlan(
        sample_rate=0.5,
        noise_multiplier=1.0,
        clip=1.0,
        expected_batch=1,
        local_steps=1,
        rounds=1,
        delta=1e-5,
    )
    watching = model.get_input_embeddings().register_forward_pre_hook(note)
    tuned = attach_adapter(model.requires_grad_(False), LoraConfig(rank=2))
    initial = np.full_like(read_adapter(tuned), 0.1)
    prepare_round(
        tuned, plan, initial=initial, max_tokens=MOST_TOKENS, token_budget=MOST_TOKENS
    )
    watching.remove()
    tuned.unload()
    return seen
