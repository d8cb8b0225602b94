"""The smallest base model that a federation can tune, and a word that overflows in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedit_secure.tuning.preflight import synthetic_examples

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
SIZE = 120


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
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    tried = np.concatenate([e.tokens for e in synthetic_examples(SIZE, [5, 19, 12])])
    strange = max(set(range(len(SPECIAL), SIZE)) - set(tried.tolist()))
    with torch.no_grad():
        model.get_input_embeddings().weight[strange] = torch.inf
    model.save_pretrained(folder)
    overflowing = words.pop(strange - len(SPECIAL))
    return words, overflowing
