"""A start for LoRA from text that the base model writes by itself: no record is read.

A of each layer spans the directions in which that layer's inputs are largest, as in EVA
(arXiv 2410.07170), which looks at records for them. Here the model is asked for the text:
what it finds likely is public, as its weights are, so the start costs no privacy. Drawn at
random, A keeps rank/width of an input; under DP all that is lost there is signal, while
the noise stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.adapter import (
    ADAPTER_NAME,
    FloatVector,
    attach_adapter,
    read_adapter,
    write_adapter,
)
from fedit_secure.tuning.batches import physical_batch
from fedit_secure.tuning.examples import Example, Template, make_examples
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.record_loss import device_of
from fedit_secure.tuning.records import Record

ASKED, ANSWERED = 32, 96
"""Tokens of an own record's instruction and response."""
FEWEST = 16
"""Own records of a start. A larger rank takes more, so that inputs outnumber it."""
PER_DIRECTION = 4
"""Inputs for each direction that is looked for, at least."""
_NOTHING = 1e-10


def turned_to_own_text(
    model: nn.Module,
    lora: LoraConfig,
    drawn: FloatVector,
    tokenizer: Any,
    template: Template,
    max_tokens: int,
    *,
    seed: int,
) -> FloatVector:
    """`drawn`, as `initial_adapter` drew it, turned to text that `model` writes by itself.

    It depends on the base model, the template, `max_tokens` and the seed alone, never on
    records. Raises ConfigError as `own_examples`.
    """
    count = max(FEWEST, math.ceil(PER_DIRECTION * lora.rank / ANSWERED))
    own = own_examples(model, tokenizer, template, max_tokens, count=count, seed=seed)
    return principal_adapter(model, lora, drawn, own)


def own_examples(
    model: nn.Module,
    tokenizer: Any,
    template: Template,
    max_tokens: int,
    *,
    count: int,
    seed: int,
) -> list[Example]:
    """`count` records that `model` wrote, in the wording that tuning will use.

    Sampled as the model's own generation settings say, from the token before every text
    on: the first `ASKED` are taken for an instruction, the rest for its response.

    Raises:
        ConfigError: the tokenizer has no token that a text begins or ends with.
    """
    begin = tokenizer.bos_token_id
    if begin is None:
        begin = tokenizer.eos_token_id
    if begin is None:
        raise ConfigError(
            f"the tokenizer {tokenizer.name_or_path!r} has no token that a text begins "
            "with, so the base model can't write one by itself: leave out 'lora.init'"
        )
    texts = _drawn(model, begin, count, ASKED + ANSWERED, seed).tolist()

    def text(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    records = [
        Record(instruction=text(t[:ASKED]), input="", response=text(t[ASKED:]))
        for t in texts
    ]
    return make_examples(
        records, tokenizer, template, max_tokens=max_tokens, response_only=False
    )


def _drawn(model: Any, begin: int, count: int, length: int, seed: int) -> Tensor:
    """int64, shape (count, length): what the model writes after `begin`."""
    tokens = torch.full((count, 1), begin, device=device_of(model))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        written: Tensor = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=begin,
            # xLSTM's cache doesn't fit all of its shapes. Others of its kind are read
            # anew for each token too: 128 are soon read.
            use_cache=not getattr(model, "_is_stateful", False),
        )
    return written[:, 1:]


def principal_adapter(
    model: nn.Module, lora: LoraConfig, drawn: FloatVector, examples: Sequence[Example]
) -> FloatVector:
    """`drawn`, with every A turned to the largest directions of its layer's inputs.

    They are the right singular vectors of the inputs, at one length such that A x is as
    long as a Kaiming draw's in the mean: learning rates and clips carry over. A rank
    beyond the inputs' keeps what was drawn. B stays zero: the adapted model equals the
    base model, which is left as it was.

    Args:
        drawn: float32, shape (coordinates,): as `initial_adapter` draws it.
        examples: what the model reads, at least two tokens each.
    """
    batch = physical_batch(examples, np.arange(len(examples), dtype=np.int64))
    # Where nothing is predicted there is padding, or the last token.
    counts = torch.from_numpy(batch.predicts).reshape(-1)
    tuned = attach_adapter(model, lora)
    try:
        write_adapter(tuned, drawn)
        tokens = torch.from_numpy(batch.tokens).to(device_of(tuned))
        with _turning(tuned, counts), torch.no_grad():
            tuned(input_ids=tokens, use_cache=False)
        return read_adapter(tuned)
    finally:
        tuned.unload()


@contextmanager
def _turning(tuned: nn.Module, counts: Tensor) -> Iterator[None]:
    """While the model reads, each layer's A turns before the layer sees its inputs.

    Layer by layer, so that the inputs of one layer alone are in memory.
    """
    from peft.tuners.lora import LoraLayer

    def turn(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        weight = layer.lora_A[ADAPTER_NAME].weight
        seen = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        weight.data.copy_(_turned(weight.data, seen[counts.to(seen.device)]))

    hooks = [
        module.register_forward_pre_hook(turn)
        for module in tuned.modules()
        if isinstance(module, LoraLayer)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _turned(drawn: Tensor, inputs: Tensor) -> Tensor:
    """A, shape (rank, width), for `inputs`, shape (count, width)."""
    rank, width = drawn.shape
    values = inputs.double()
    # Of inputs' products or of coordinates': the smaller has the same eigenvalues.
    few = len(values) < width
    products = values @ values.T if few else values.T @ values
    energies, vectors = torch.linalg.eigh(products)
    # Below that the inputs have no such direction, but what rounding left.
    found = min(rank, int((energies > _NOTHING * energies[-1]).sum()))
    if not found:
        return drawn
    energies, vectors = energies[-found:].flip(0), vectors[:, -found:].flip(1)
    directions = vectors.T @ values / energies.sqrt()[:, None] if few else vectors.T
    # A Kaiming draw (a = sqrt(5)) has coordinates of variance 1/(3 width).
    length = math.sqrt(float(products.trace()) * found / (3 * width * energies.sum()))
    result = drawn.clone()
    result[:found] = (directions * length).to(drawn.dtype)
    return result
