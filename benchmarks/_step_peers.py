"""One logical batch, by our step and by those of others, as they ship."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import _allocation as allocation
import numpy as np
import torch
from numpy.typing import NDArray
from opacus import PrivacyEngine
from opacus.utils.batch_memory_manager import BatchMemoryManager
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.tuning.adapter import (
    adapter_parameters,
    attach_adapter,
    read_adapter,
    write_adapter,
)
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.batches import Packing
from fedit_secure.tuning.dp_step import BatchGradient
from fedit_secure.tuning.examples import Example, make_examples
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET, LoraConfig
from fedit_secure.tuning.local_round import add_noise
from fedit_secure.tuning.records import Record

PEERS = ("ours", "ours_nonprivate", "opacus", "fixed_batches", "hf_trainer")
CUT, MICRO, CLIP, SIGMA, POOL = 512, 8, 0.5, 1.0, 1600
TRAINER_STEPS = 4

Slots = NDArray[np.int64]


class Records(Dataset):  # type: ignore[type-arg]
    """Examples as Hugging Face's collator takes them."""

    def __init__(self, examples: list[Example]) -> None:
        self.items = [
            {
                "input_ids": e.tokens.tolist(),
                "attention_mask": [1] * len(e.tokens),
                "labels": [-100] * e.first_label + e.tokens[e.first_label :].tolist(),
            }
            for e in examples
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.items[index]


def padded(items: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch to the longest of its records."""
    longest = max((len(item["input_ids"]) for item in items), default=1)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        key: torch.tensor(
            [item[key] + [value] * (longest - len(item[key])) for item in items]
        )
        for key, value in fill.items()
    }


def loss_per_record(logits: Tensor, labels: Tensor) -> Tensor:
    """Every record's mean loss over its own labels, from full logits: shape (records,)."""
    shifted = labels[:, 1:]
    losses = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), shifted, reduction="none", ignore_index=-100
    )
    counted = shifted != -100
    return (losses * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


class Bench:
    """The model, Dolly's records as tokens, and logical batches drawn from them.

    Args:
        vocabulary: 4096 for the public base model, else of a random Llama.
        size: records of a logical batch.
        batches: how many to draw.
        device: where the model is.
    """

    def __init__(
        self, vocabulary: int, size: int, batches: int, device: torch.device
    ) -> None:
        self.device = device
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        random = np.random.default_rng(0)
        self.examples = _examples(vocabulary, random)
        self.batches = [
            np.sort(random.choice(len(self.examples), size, replace=False))
            for _ in range(batches)
        ]
        self.sizes = [self._tokens_of(batch) for batch in self.batches]
        self.records = Records(self.examples)
        self.packing = Packing(DEFAULT_TOKEN_BUDGET)
        self.model = attach_adapter(_model(vocabulary).to(device), LoraConfig(rank=8))
        vector = read_adapter(self.model)
        self.start = (vector + random.normal(0, 0.02, vector.shape)).astype("f4")
        write_adapter(self.model, self.start)
        self.length = len(vector)
        self.noise = CryptoNoise(bytes(32), torch.get_num_threads())
        self._trained_tokens, self._trainings = 0, 0

    def tokens(self, peer: str, batch: Slots) -> int:
        """Tokens of the records that the last run of `peer` on `batch` took."""
        return self._trained_tokens if peer == "hf_trainer" else self._tokens_of(batch)

    def _tokens_of(self, batch: Slots) -> int:
        return sum(len(self.examples[slot].tokens) for slot in batch)

    def seconds_of_batch(self, microseconds_per_token: float) -> float:
        """What that is for a logical batch of the mean size."""
        return float(microseconds_per_token * np.mean(self.sizes) / 1e6)

    def run(self, peer: str, batch: Slots) -> None:
        """One logical batch: gradients, clip and noise where there are some, one step."""
        getattr(self, f"_{peer}")(batch)

    def seconds(self, peer: str, batch: Slots) -> float:
        """Wall time of `run`."""
        return self._timed(lambda: self.run(peer, batch))

    def _timed(self, work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begin

    def noise_seconds(self) -> float:
        """Of one step's noise, the median of five."""
        taken = []
        for step in range(5):
            total = torch.zeros(self.length, dtype=torch.float64, device=self.device)
            taken.append(
                self._timed(lambda: add_noise(self.noise, total, step, SIGMA, CLIP))  # noqa: B023
            )
        return float(np.median(taken))

    def gap_to_opacus(self) -> float:
        """Relative distance of our sum before noise from that of `PrivacyEngine`."""
        batch = self.batches[0][:16]
        ours = self._sum(batch, CLIP).cpu().numpy()
        hooks, optimizer, _ = self._engine(DataLoader(self.records))
        items = self._padded([self.records[int(slot)] for slot in batch])
        logits = self.model(input_ids=items["input_ids"]).logits
        loss_per_record(logits, items["labels"]).sum().backward()
        optimizer.clip_and_accumulate()
        named = adapter_parameters(self.model)
        theirs = torch.cat([p.summed_grad.reshape(-1) for _, p in named]).cpu().numpy()
        self._end_engine(hooks)
        return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))

    # ------------------------------------------------------------------------------ ours

    def _sum(self, batch: Slots, clip: float | None) -> Tensor:
        gradient = BatchGradient(
            self.model, self.examples, clip=clip, selective=True, packing=self.packing
        )
        try:
            return gradient.sum(batch)
        finally:
            gradient.close()

    def _step(self, total: Tensor, size: int) -> None:
        parameters = [p for _, p in adapter_parameters(self.model)]
        start, mean = 0, (total / size).float()
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.grad = mean[start:stop].view(parameter.shape)
            start = stop
        torch.optim.AdamW(parameters, lr=1e-6).step()
        for parameter in parameters:
            parameter.grad = None

    def _ours(self, batch: Slots) -> None:
        total = self._sum(batch, CLIP)
        self._step(add_noise(self.noise, total, 0, SIGMA, CLIP), len(batch))

    def _ours_nonprivate(self, batch: Slots) -> None:
        self._step(self._sum(batch, None), len(batch))

    # ---------------------------------------------------------------------------- others

    def _engine(self, loader: Any) -> Any:
        self.model.train()
        parameters = [p for _, p in adapter_parameters(self.model)]
        return PrivacyEngine().make_private(
            module=self.model,
            optimizer=torch.optim.AdamW(parameters, lr=1e-6),
            data_loader=loader,
            noise_multiplier=SIGMA,
            max_grad_norm=CLIP,
            poisson_sampling=False,
            loss_reduction="sum",
            grad_sample_mode="hooks",
            wrap_model=False,
        )

    def _end_engine(self, hooks: Any) -> None:
        hooks.cleanup()
        for module in self.model.modules():
            for name in ("activations", "max_batch_len"):
                module.__dict__.pop(name, None)
        self.model.zero_grad()
        self.model.eval()

    def _opacus(self, batch: Slots) -> None:
        # The batch is given, so that all have the same one: as if Poisson had drawn it.
        chosen = torch.utils.data.Subset(self.records, batch.tolist())
        loader = DataLoader(chosen, batch_size=len(batch), collate_fn=self._padded)
        hooks, optimizer, loader = self._engine(loader)
        with BatchMemoryManager(
            data_loader=loader, max_physical_batch_size=MICRO, optimizer=optimizer
        ) as physical:
            for items in physical:
                optimizer.zero_grad()
                outputs = self.model(
                    input_ids=items["input_ids"], attention_mask=items["attention_mask"]
                )
                loss_per_record(outputs.logits, items["labels"]).sum().backward()
                optimizer.step()
        self._end_engine(hooks)

    def _fixed_batches(self, batch: Slots) -> None:
        parameters = [p for _, p in adapter_parameters(self.model)]
        descent = torch.optim.AdamW(parameters, lr=1e-6)
        for items in self._physical(batch):
            self.model(**items).loss.backward()
        descent.step()
        descent.zero_grad()

    def _padded(self, items: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        return {key: part.to(self.device) for key, part in padded(items).items()}

    def _physical(self, batch: Slots) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(batch), MICRO):
            yield self._padded(
                [self.records[int(s)] for s in batch[start : start + MICRO]]
            )

    def _hf_trainer(self, _batch: Slots) -> None:
        from transformers import Trainer, TrainingArguments

        seen = 0

        def collate(items: list[dict[str, list[int]]]) -> dict[str, Tensor]:
            nonlocal seen
            seen += sum(len(item["input_ids"]) for item in items)
            return padded(items)

        self._trainings += 1
        settings = TrainingArguments(
            output_dir="unused",
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=8,
            max_steps=TRAINER_STEPS,
            learning_rate=1e-6,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=self.device.type == "cpu",
            seed=self._trainings,
            data_seed=self._trainings,
        )
        trainer = Trainer(
            model=self.model,
            args=settings,
            train_dataset=self.records,
            data_collator=collate,
        )
        trainer.train()
        self.model.eval()
        self._trained_tokens = seen


def _examples(vocabulary: int, random: np.random.Generator) -> list[Example]:
    """Dolly's records as tokens of the public base; drawn ids in a larger vocabulary."""
    rows = allocation.read_dolly()
    chosen = random.choice(len(rows), POOL, replace=False)
    records = [
        Record(rows[i]["instruction"], rows[i]["context"], rows[i]["response"])
        for i in chosen
    ]
    tokenizer = load_tokenizer(allocation.PUBLIC_BASE)
    examples = make_examples(records, tokenizer, "alpaca", CUT)
    if vocabulary == len(tokenizer):
        return examples
    return [
        Example(random.integers(0, vocabulary, len(e.tokens)), e.first_label)
        for e in examples
    ]


def _model(vocabulary: int) -> nn.Module:
    base = load_base_model(allocation.PUBLIC_BASE)
    if base.config.vocab_size == vocabulary:
        return base
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256,
        num_hidden_layers=6,
        intermediate_size=688,
        num_attention_heads=8,
        vocab_size=vocabulary,
        max_position_embeddings=CUT,
    )
    return LlamaForCausalLM(config).requires_grad_(False).eval()
