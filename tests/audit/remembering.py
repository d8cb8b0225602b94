"""An adapter that knows its records by heart, and records of one kind to know or not."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from fedit_secure.audit.leakage.model_under_test import ModelUnderTest
from fedit_secure.config import SiloConfig
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.storage.adapter_store import save_peft
from fedit_secure.tuning.adapter import adapter_layout, attach_adapter, read_adapter
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.batches import physical_batch
from fedit_secure.tuning.examples import load_template, make_examples
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.record_loss import summed_loss
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.saved_adapter import SavedAdapter

TEMPLATE = load_template("alpaca")
MAX_TOKENS = 64
LORA = LoraConfig(
    rank=16,
    alpha=32,
    targets=(
        "layers.3.self_attn.q_proj",
        "layers.3.self_attn.v_proj",
        "layers.3.mlp.gate_proj",
        "layers.3.mlp.up_proj",
        "layers.3.mlp.down_proj",
    ),
)
_WORDS = [
    *("the", "ward", "desk", "bed", "day", "dose", "level", "letter", "result", "flag"),
    *("pulse", "fever", "cough", "pain", "rest", "walk", "water", "sleep", "scan"),
    *("test", "table", "note", "plan", "visit", "hour", "week", "north", "south"),
    *("east", "west"),
]


def notes(count: int, seed: int) -> list[Record]:
    """Records whose responses nobody can guess, all of one kind."""
    random = np.random.default_rng(seed)
    return [
        Record(
            instruction=" ".join(random.choice(_WORDS, 4)),
            input="",
            response=" ".join(random.choice(_WORDS, 12)),
        )
        for _ in range(count)
    ]


def tuned_on(records: list[Record], steps: int) -> SavedAdapter:
    """An adapter tuned on these records without privacy, as hard as it goes."""
    folder = base_model_path()
    torch.manual_seed(0)
    model = attach_adapter(load_base_model(folder), LORA)
    tokenizer = load_tokenizer(folder)
    examples = make_examples(records, tokenizer, TEMPLATE, MAX_TOKENS)
    batch = physical_batch(examples, np.arange(len(examples)))
    tuned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(tuned, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (summed_loss(model, batch, selective=True) / len(records)).backward()
        optimizer.step()
    return SavedAdapter("tuned", LORA, adapter_layout(model), read_adapter(model))


@cache
def remembered() -> tuple[list[Record], SavedAdapter]:
    """Records, and the adapter that knows them by heart."""
    records = notes(24, seed=1)
    return records, tuned_on(records, steps=70)


def load_model(adapter: SavedAdapter) -> ModelUnderTest:
    """The packaged base model with this adapter."""
    config = SiloConfig.model_construct(
        model=str(base_model_path()),
        device="cpu",
        precision="float32",
        quantization="none",
        threads=1,
        token_budget=2048,
    )
    return ModelUnderTest.load(config, None, adapter, TEMPLATE.name, MAX_TOKENS)


def save(adapter: SavedAdapter, folder: Path) -> Path:
    """The adapter as PEFT keeps it."""
    arrays, start = {}, 0
    for key, shape in adapter.layout:
        size = int(np.prod(shape))
        arrays[key] = adapter.vector[start : start + size].reshape(shape)
        start += size
    lora = {
        "rank": LORA.rank,
        "alpha": LORA.alpha,
        "dropout": 0.0,
        "targets": LORA.targets,
    }
    save_peft(folder, arrays, lora, str(base_model_path()))
    return folder
