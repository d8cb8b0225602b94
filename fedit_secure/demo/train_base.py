"""Train the demo's base model from scratch: `python -m fedit_secure.demo.train_base`.

A byte-level BPE tokenizer and a small Llama, on `public_text` alone. One thread, fixed
seeds and torch's deterministic algorithms: the same torch on the same kind of processor
writes the same bytes, and the manifest says which those were.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedit_secure.demo.base_model_files import MANIFEST, base_model_path
from fedit_secure.demo.public_text import PublicText, public_texts
from fedit_secure.tuning.examples import (
    Example,
    PackagedTemplate,
    make_examples,
    packaged_template,
)
from fedit_secure.tuning.records import Record

PAD, BEGIN, END = "<pad>", "<s>", "</s>"


@dataclass(frozen=True, slots=True)
class BaseModelSizes:
    """Everything that decides the base model's bytes, but the versions."""

    seed: int = 20
    texts: int = 112_000
    vocabulary: int = 1536
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 352
    positions: int = 256
    batch: int = 16
    learning_rate: float = 2e-3
    warm_up: float = 0.03
    weight_decay: float = 0.05
    prompt_weight: float = 0.2
    max_tokens: int = 128


def train_tokenizer(
    texts: Sequence[PublicText], template: PackagedTemplate, vocabulary: int
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`, digits apart; `<pad>`=0, `<s>`=1, `</s>`=2.

    The template's fixed passages are tokens of their own: a record is a third as long.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary - len(_passages(template)),
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        (part for t in texts for part in (t.instruction, t.input, t.response)), trainer
    )
    bpe.add_tokens([AddedToken(p, normalized=False) for p in _passages(template)])
    bpe.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, bpe.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        model_max_length=BaseModelSizes().positions,
    )


def _passages(template: PackagedTemplate) -> list[str]:
    """What stands before, between and after the fields of both of its wordings."""
    passages: list[str] = []
    for wording in (template.with_input, template.without_input):
        for passage in wording.replace("{input}", "{instruction}").split(
            "{instruction}"
        ):
            if passage not in passages:
                passages.append(passage)
    return passages


def encode(
    texts: Sequence[PublicText],
    tokenizer: PreTrainedTokenizerFast,
    template: PackagedTemplate,
    max_tokens: int,
) -> list[Example]:
    """Instructions in the template, passages as they are; one example per text."""
    tasks = make_examples(
        [Record(t.instruction, t.input, t.response) for t in texts],
        tokenizer,
        template,
        max_tokens=max_tokens,
    )
    plain = tokenizer([t.response for t in texts])["input_ids"]
    return [
        task
        if text.instruction
        else Example(np.array([*words, tokenizer.eos_token_id]), 1)
        for text, task, words in zip(texts, tasks, plain, strict=True)
    ]


def train_model(
    examples: Sequence[Example], sizes: BaseModelSizes, vocabulary: int
) -> LlamaForCausalLM:
    """One pass over `examples` with AdamW and a one-cycle learning rate."""
    torch.manual_seed(sizes.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=sizes.hidden,
            intermediate_size=sizes.intermediate,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=sizes.positions,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=sizes.hidden**-0.5 / 2,
        )
    )
    batches = list(_batches(examples, sizes))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=sizes.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=sizes.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        sizes.learning_rate,
        total_steps=len(batches),
        pct_start=sizes.warm_up,
        cycle_momentum=False,
    )
    model.train()
    for step, batch in enumerate(batches, start=1):
        loss = _loss(model, batch, sizes.prompt_weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == len(batches):
            _say(f"step {step} of {len(batches)}: loss {loss.item():.3f}")
    return model.eval()


def _batches(
    examples: Sequence[Example], sizes: BaseModelSizes
) -> Iterator[list[Example]]:
    """Batches of similar lengths, in a seeded order, so that little is padding."""
    rng = np.random.default_rng(sizes.seed)
    order = rng.permutation(len(examples))
    pool = 2048
    for start in range(0, len(order), pool):
        some = sorted(
            order[start : start + pool], key=lambda i: len(examples[i].tokens)
        )
        parts = [some[i : i + sizes.batch] for i in range(0, len(some), sizes.batch)]
        for part in rng.permutation(len(parts)):
            yield [examples[index] for index in parts[part]]


def _loss(
    model: LlamaForCausalLM, batch: Sequence[Example], prompt_weight: float
) -> torch.Tensor:
    """Mean over the response's tokens, plus the prompt's at a small weight."""
    width = max(len(e.tokens) for e in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.int64)
    weights = torch.zeros(len(batch), width)
    for row, example in enumerate(batch):
        length = len(example.tokens)
        tokens[row, :length] = torch.from_numpy(example.tokens)
        weights[row, 1:length] = prompt_weight
        weights[row, example.first_label : length] = 1.0
    # Right-padded and causal: no token that counts attends to the padding.
    logits = model(input_ids=tokens).logits[:, :-1]
    each = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        tokens[:, 1:].reshape(-1),
        reduction="none",
    )
    weight = weights[:, 1:].reshape(-1)
    return (each * weight).sum() / weight.sum()


def train_base(folder: Path, sizes: BaseModelSizes | None = None) -> None:
    """Train tokenizer and model and write both, with their manifest, into `folder`."""
    sizes = sizes or BaseModelSizes()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    template = packaged_template("alpaca")
    texts = public_texts(sizes.seed, sizes.texts)
    tokenizer = train_tokenizer(texts, template, sizes.vocabulary)
    examples = encode(texts, tokenizer, template, sizes.max_tokens)
    _say(
        f"{len(texts)} texts, {sum(len(e.tokens) for e in examples)} tokens, "
        f"vocabulary {len(tokenizer)}"
    )
    model = train_model(examples, sizes, len(tokenizer))
    _say(f"{sum(p.numel() for p in model.parameters())} parameters")
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_manifest(folder, sizes)


def write_manifest(folder: Path, sizes: BaseModelSizes) -> None:
    """Write `manifest.json`: sizes, versions, and the SHA-256 of every other file."""
    manifest: dict[str, Any] = {
        "made_by": "python -m fedit_secure.demo.train_base",
        "sizes": asdict(sizes),
        "versions": versions(),
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
            if path.name != MANIFEST
        },
    }
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """What the weights' last bits depend on besides the sizes."""
    import tokenizers
    import transformers

    return {
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> None:
    """Retrain the packaged base model, or write it into another folder."""
    parser = argparse.ArgumentParser(description="Train the demo's base model.")
    parser.add_argument("--folder", type=Path, default=base_model_path())
    train_base(parser.parse_args().folder)


if __name__ == "__main__":
    main()
