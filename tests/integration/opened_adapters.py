"""What a run saved, opened by PEFT and by transformers alone, against the worker's model."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import fedit_secure
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.evaluation.merge import Merge, merge
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.silo.jobs import lora_of
from fedit_secure.tuning.adapter import attach_adapter, write_adapter
from fedit_secure.tuning.base_model import load_base_model
from fedit_secure.tuning.saved_adapter import read_peft_adapter

ATOL = 2e-6


def require_same_logits(done: fedit_secure.Simulation, base: Path) -> None:
    """The adapter of every round, by itself and merged, gives the worker's logits.

    The worker's model of a round is the one that tuning goes on from: the state, on the
    grid, in float32.
    """
    tokens = torch.arange(4, 16)[None]
    worker = attach_adapter(load_base_model(base), lora_of(done.charter))
    initial = (done.folder.parent / "initial-state.bin").read_bytes()
    folder = RunFolder(done.folder, done.charter, GridState.from_bytes(initial))
    seen = [_logits(load_base_model(base), tokens)]
    for round in range(1, done.charter.rounds + 1):
        write_adapter(worker, to_float32(folder.state_after(round)))
        expected = _logits(worker, tokens)
        saved = folder.adapter(round)
        opened = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), saved
        )
        assert torch.equal(_logits(opened.eval(), tokens), expected), round
        output = done.folder.parent / f"merged-{round}"
        merge(Merge(base, read_peft_adapter(saved), output))
        merged = AutoModelForCausalLM.from_pretrained(output).eval()
        gap = (_logits(merged, tokens) - expected).abs().max()
        assert gap <= ATOL, (round, float(gap))
        # The comparison can fail: each round's adapter says something of its own.
        assert (expected - seen[0]).abs().max() > 10 * ATOL
        assert not any(torch.equal(expected, other) for other in seen)
        seen.append(expected)


def _logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens).logits
        return found
