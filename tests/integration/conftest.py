"""A tiny random base model and a few records: enough for whole federations in a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [
    "the",
    "patient",
    "has",
    "a",
    "mild",
    "fever",
    "and",
    "takes",
    "one",
    "dose",
    "twice",
    "a",
    "day",
    "of",
    "what",
    "is",
    "it",
]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a word tokenizer, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.WordLevelTrainer(special_tokens=special, vocab_size=200)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def records(tmp_path: Path) -> dict[str, Path]:
    """Four silos of 60 records."""
    found = {}
    for number, name in enumerate(("north", "south", "east", "west")):
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [
            {
                "instruction": f"what is it {WORDS[(i + number) % len(WORDS)]}",
                "response": " ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(4)),
                "category": "a",
            }
            for i in range(60)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = path
    return found


@pytest.fixture
def plan(tiny_base: Path) -> dict[str, object]:
    """Two rounds of two steps at epsilon 8."""
    return {
        "base_model": str(tiny_base),
        "max_tokens": 96,
        "lora": {"rank": 2},
        "tuning": {"learning_rate": 1e-3, "local_steps": 2},
        "rounds": 2,
        "dp": {"epsilon": 8.0, "delta": 1e-3, "clip": 1.0, "expected_batch": 20},
        "schedule": {
            "tune_deadline_seconds": 120,
            "phase_deadline_seconds": 10,
            "silo_deadline_seconds": 20,
            "ready_slot_seconds": 0.1,
        },
    }
