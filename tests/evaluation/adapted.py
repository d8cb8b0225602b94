"""Saved models and adapters that are small, and away from zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from tiny_models import VOCABULARY, base_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.tuning.adapter import attach_adapter, read_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model
from fedit_secure.tuning.job import LoraConfig


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of the tiny models' vocabulary."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["### Instruction: ### Response: the a of an in"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def save_tiny(folder: Path, family: str = "llama") -> Path:
    """A tiny random model with its tokenizer."""
    base_model(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def adapt(base: Path, folder: Path, *, scale: float = 0.1, rank: int = 2) -> Path:
    """A random adapter of `base`, saved by PEFT itself."""
    model = attach_adapter(load_base_model(base), LoraConfig(rank=rank, alpha=4))
    model.peft_config["default"].base_model_name_or_path = str(base)
    random = np.random.default_rng(7)
    shape = read_adapter(model).shape
    write_adapter(model, random.normal(0, scale, shape).astype("f4"))
    model.save_pretrained(folder)
    return folder


def demo_adapter(folder: Path, **options: float) -> Path:
    """A random adapter of the packaged base model."""
    return adapt(base_model_path(), folder, **options)  # type: ignore[arg-type]


def adapted_logits(base: Path, adapter: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What PEFT itself makes of base and adapter."""
    model = PeftModel.from_pretrained(load_base_model(base), str(adapter)).eval()
    with torch.no_grad():
        return model(input_ids=tokens).logits
