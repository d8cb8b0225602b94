"""One row of the architecture matrix, and how its tiny model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 300

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
SLIDING = {"sliding_window": 8}
LATENT = {
    **SMALL,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")

REFUSED_EXPERTS = "routes each token to some of its experts"
REFUSED_TOKENS = "sees single tokens, not one row per record"
REFUSED_ABSENT = "takes no part in the base model's forward pass"
REFUSED_AHEAD = "isn't causal"
REFUSED_PEFT = "LoRA doesn't fit the base model"
REFUSED_HOOKS = "a pass that keeps records apart fails in it"


@dataclass(frozen=True, slots=True)
class Row:
    """One architecture.

    Attributes:
        name: how docs/architectures.md calls it; unique.
        kind: transformers' `model_type`.
        shape: what makes its configuration small.
        targets: the modules that are usually tuned by name.
        all_linear: "" when every linear layer can be tuned, or the refusal's words.
        named: the same for `targets`.
        selective: whether logits at label positions alone equal the full forward's,
            with all linear layers tuned where they can be.
        gain: the random weights are this much larger than at initialisation, so that
            every part of the model matters; less where that makes it chaotic.
        note: for the page.
    """

    name: str
    kind: str
    shape: Mapping[str, Any]
    targets: tuple[str, ...] = _QKVO
    all_linear: str = ""
    named: str = ""
    selective: bool = True
    gain: float = 2.0
    note: str = ""


def build(row: Row) -> PreTrainedModel:
    """The row's model, the same at every call."""
    config = AutoConfig.for_model(
        row.kind,
        **row.shape,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(row.gain)
    return model.float().requires_grad_(False).eval()
