"""A tiny tokenizer, a saved tiny model, and the files of a tuning job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import VOCABULARY, base_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fedit_secure.tuning.adapter import initial_adapter
from fedit_secure.tuning.job import LoraConfig


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are compared to the bit, and another module may have left two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with an end-of-sequence token."""
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


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A saved tiny Llama with its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    base_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def job_files(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path
) -> SimpleNamespace:
    """Records, an adapter state and the layout for jobs on `model_folder`."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("job")
    data = folder / "records.jsonl"
    rows = [
        {"instruction": f"say {n}", "response": f"here you are: {n * n}"}
        for n in range(40)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lora = LoraConfig(rank=2)
    layout, vector = initial_adapter(base_model(), lora, seed=1)
    state = folder / "state.safetensors"
    save_file({"adapter": vector}, state)
    return SimpleNamespace(
        model=model_folder, data=data, state=state, layout=layout, lora=lora
    )
