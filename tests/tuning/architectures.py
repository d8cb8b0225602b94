"""The architecture matrix: every family that people tune, as a tiny random model.

One row says how the family is built small, which targets are usual, and what becomes of
it: tuned per record, or refused in words that the row quotes. docs/architectures.md
shows the same rows; a test keeps the two alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architecture_row import (
    DELTA,
    EXPERTS,
    GPT2,
    GROUPED,
    LATENT,
    REFUSED_ABSENT,
    REFUSED_AHEAD,
    REFUSED_EXPERTS,
    REFUSED_HOOKS,
    REFUSED_PEFT,
    SMALL,
    Row,
)
from dense_architectures import DENSE


def routed(name: str, kind: str, shape: Mapping[str, Any]) -> Row:
    return Row(
        name,
        kind,
        {**EXPERTS, **shape},
        all_linear=REFUSED_EXPERTS,
        named=REFUSED_EXPERTS,
    )


_STATE_SPACE = (
    Row(
        "Mamba",
        "mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        ("in_proj", "x_proj"),
        all_linear=REFUSED_PEFT,
        note="`out_proj` is read around its module",
    ),
    Row(
        "Falcon Mamba",
        "falcon_mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        ("in_proj", "x_proj"),
        all_linear=REFUSED_PEFT,
        note="as Mamba",
    ),
    Row(
        "Mamba 2",
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8,
         "head_dim": 8, "n_groups": 1, "chunk_size": 8},
        ("in_proj",),
        all_linear=REFUSED_PEFT,
        note="as Mamba",
    ),
    Row(
        "RecurrentGemma",
        "recurrent_gemma",
        {**SMALL, "num_key_value_heads": 1, "lru_width": 32, "num_hidden_layers": 3,
         "attention_window_size": 8},
    ),
    Row(
        "Bamba",
        "bamba",
        {**GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8,
         "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    Row(
        "Falcon H1",
        "falcon_h1",
        {**GROUPED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1,
         "mamba_d_ssm": 64, "mamba_d_state": 8, "mamba_chunk_size": 8},
        all_linear=REFUSED_PEFT,
        note="as Mamba",
    ),
    Row(
        "Nemotron H",
        "nemotron_h",
        {**GROUPED, "layers_block_type": ["mamba", "attention", "mlp"],
         "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1,
         "ssm_state_size": 8, "chunk_size": 8},
        all_linear=REFUSED_PEFT,
        note="as Mamba",
    ),
    Row(
        "Granite 4 H (dense)",
        "granitemoehybrid",
        {**GROUPED, "layer_types": ["mamba", "attention"], "num_local_experts": 0,
         "shared_intermediate_size": 48, "mamba_n_heads": 8, "mamba_d_head": 8,
         "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    Row(
        "Jamba (dense)",
        "jamba",
        {**GROUPED, "num_experts": 1, "num_experts_per_tok": 1,
         "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
         "mamba_dt_rank": 4, "use_mamba_kernels": False},
        all_linear=REFUSED_ABSENT,
        note="`dt_proj` is read around its module",
    ),
    Row(
        "Zamba 2",
        "zamba2",
        {**SMALL, "num_key_value_heads": 4,
         "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
         "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
         "num_hidden_layers": 4,
         "mamba_d_state": 8, "n_mamba_heads": 8, "mamba_ngroups": 1, "chunk_size": 8},
        all_linear=REFUSED_ABSENT,
        note="blocks shared by layers",
    ),
    Row(
        "LFM 2",
        "lfm2",
        {**GROUPED, "layer_types": ["conv", "full_attention"]},
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        note="short convolutions",
    ),
    Row(
        "OLMo hybrid",
        "olmo_hybrid",
        {**GROUPED, **DELTA, "layer_types": ["linear_attention", "full_attention"]},
        note="linear attention",
    ),
    Row(
        "RWKV 4",
        "rwkv",
        {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 128,
         "attention_hidden_size": 32, "intermediate_size": 48},
        ("key", "value", "receptance"),
    ),
    Row(
        "xLSTM",
        "xlstm",
        {"hidden_size": 32, "num_blocks": 2, "num_hidden_layers": 2, "num_heads": 2},
        ("q", "k", "v"),
        selective=False,
    ),
)  # fmt: skip

_ROUTED = (
    routed("Mixtral", "mixtral", GROUPED),
    routed("Qwen 2 MoE", "qwen2_moe", GROUPED),
    routed("Qwen 3 MoE", "qwen3_moe", GROUPED),
    routed("Qwen 3 Next", "qwen3_next", {**GROUPED, **DELTA}),
    routed("GPT-OSS", "gpt_oss", GROUPED),
    routed("Llama 4 (text)", "llama4_text", {**GROUPED, "intermediate_size_mlp": 48}),
    routed("OLMoE", "olmoe", GROUPED),
    routed("DeepSeek V2", "deepseek_v2",
             {**LATENT, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    routed("DeepSeek V3", "deepseek_v3",
             {**LATENT, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    routed("Phi 3.5 MoE", "phimoe", GROUPED),
    routed("Granite MoE", "granitemoe", GROUPED),
    routed("JetMoE", "jetmoe", {**GROUPED, "kv_channels": 8}),
    routed("ERNIE 4.5 MoE", "ernie4_5_moe", {**GROUPED, "moe_k": 2}),
    routed("GLM 4.5", "glm4_moe",
             {**GROUPED, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    routed("Hunyuan MoE", "hunyuan_v1_moe", GROUPED),
    routed("MiniMax M2", "minimax_m2", GROUPED),
    routed("Jamba", "jamba",
             {**GROUPED, "mamba_d_state": 8, "mamba_dt_rank": 4,
              "use_mamba_kernels": False}),
    routed("Granite 4 H", "granitemoehybrid",
             {**GROUPED, "layer_types": ["mamba", "attention"],
              "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}),
)  # fmt: skip

_NOT_CAUSAL = (
    Row("BERT, as a decoder", "bert", SMALL, ("query", "value"),
        all_linear=REFUSED_AHEAD, named=REFUSED_AHEAD),
    Row("RoBERTa, as a decoder", "roberta", SMALL, ("query", "value"),
        all_linear=REFUSED_AHEAD, named=REFUSED_AHEAD),
    Row("BART's decoder", "bart",
        {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
         "decoder_ffn_dim": 48, "max_position_embeddings": 128},
        ("q_proj", "v_proj"), all_linear=REFUSED_ABSENT, named=REFUSED_ABSENT,
        note="its attention to an encoder"),
    Row("CTRL", "ctrl", {**GPT2, "dff": 48}, ("Wq", "Wv"),
        all_linear=REFUSED_HOOKS, named=REFUSED_HOOKS,
        note="changes its embeddings in place"),
)  # fmt: skip

ROWS = (*DENSE, *_STATE_SPACE, *_ROUTED, *_NOT_CAUSAL)
