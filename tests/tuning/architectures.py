"""The architecture matrix: every family that people tune, as a tiny random model.

One row says how the family is built small, which targets are usual, and what becomes of
it: tuned per record, or refused in words that the row quotes. docs/architectures.md
shows the same rows; a test keeps the two alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 300

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
_SLIDING = {"sliding_window": 8}
_LATENT = {
    **_SMALL,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_EXPERTS = {
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


def _experts(name: str, kind: str, shape: Mapping[str, Any]) -> Row:
    return Row(
        name,
        kind,
        {**_EXPERTS, **shape},
        all_linear=REFUSED_EXPERTS,
        named=REFUSED_EXPERTS,
    )


_DENSE = (
    Row("Llama 1 to 3", "llama", {**_GROUPED, "attention_bias": True}),
    Row("Llama, tied embeddings", "llama", {**_GROUPED, "tie_word_embeddings": True}),
    Row("Mistral", "mistral", {**_GROUPED, **_SLIDING}),
    Row("Ministral", "ministral", {**_GROUPED, **_SLIDING}),
    Row("Ministral 3", "ministral3", _GROUPED),
    Row("Qwen 2 and 2.5", "qwen2", _GROUPED),
    Row("Qwen 3", "qwen3", _GROUPED),
    Row(
        "Qwen 3.5 (text)",
        "qwen3_5_text",
        {
            **_GROUPED,
            **_DELTA,
            "layer_types": ["linear_attention", "full_attention"],
        },
        note="linear attention",
    ),
    Row("Gemma", "gemma", _GROUPED),
    Row(
        "Gemma 2",
        "gemma2",
        {**_GROUPED, **_SLIDING, "final_logit_softcapping": 0.5},
        note="soft-capped logits",
    ),
    Row("Gemma 3 (text)", "gemma3_text", {**_GROUPED, **_SLIDING}),
    Row(
        "Gemma 3n (text)",
        "gemma3n_text",
        {
            **_GROUPED,
            **_SLIDING,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "laurel_rank": 8,
            "num_kv_shared_layers": 0,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    Row(
        "Gemma 4 (text)",
        "gemma4_text",
        {
            **_GROUPED,
            **_SLIDING,
            "global_head_dim": 8,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "num_kv_shared_layers": 0,
        },
    ),
    Row("VaultGemma", "vaultgemma", {**_GROUPED, **_SLIDING}),
    Row("Phi 1 to 2", "phi", _SMALL, ("q_proj", "k_proj", "v_proj", "dense")),
    Row("Phi 3 and 4", "phi3", _GROUPED, ("qkv_proj", "o_proj")),
    Row("GPT-2", "gpt2", _GPT2, ("c_attn",), note="Conv1D layers"),
    Row("GPT-BigCode", "gpt_bigcode", _GPT2, ("c_attn",), note="one key head"),
    Row(
        "GPT-Neo",
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 128,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
        },
        ("q_proj", "k_proj", "v_proj", "out_proj"),
    ),
    Row("GPT-NeoX, Pythia", "gpt_neox", _SMALL, ("query_key_value", "dense")),
    Row(
        "GPT-J",
        "gptj",
        {**_GPT2, "rotary_dim": 4},
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        note="parallel branches",
    ),
    Row("CodeGen", "codegen", {**_GPT2, "rotary_dim": 4}, ("qkv_proj", "out_proj")),
    Row(
        "OPT",
        "opt",
        {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        all_linear=REFUSED_TOKENS,
        note="`fc1` and `fc2` see tokens",
    ),
    Row(
        "OPT-350m",
        "opt",
        {
            **_SMALL,
            "ffn_dim": 48,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
        },
        ("q_proj", "v_proj", "project_in"),
        all_linear=REFUSED_TOKENS,
        note="`project_in`, `project_out`",
    ),
    Row("XGLM", "xglm", {"d_model": 32, "num_layers": 2, "attention_heads": 4,
                         "ffn_dim": 48}, ("q_proj", "v_proj")),
    Row("BioGPT", "biogpt", _SMALL, ("q_proj", "v_proj")),
    Row(
        "Falcon 7B",
        "falcon",
        {**_SMALL, "parallel_attn": True, "multi_query": True},
        ("query_key_value", "dense"),
        note="parallel branches, one key head",
    ),
    Row(
        "Falcon 40B",
        "falcon",
        {**_SMALL, "new_decoder_architecture": True, "num_kv_heads": 2},
        ("query_key_value", "dense"),
        note="grouped keys",
    ),
    Row(
        "Falcon RW",
        "falcon",
        {**_SMALL, "alibi": True, "parallel_attn": False, "multi_query": False,
         "bias": True},
        ("query_key_value", "dense"),
        note="ALiBi",
    ),
    Row(
        "BLOOM",
        "bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        ("query_key_value", "dense"),
        note="ALiBi",
    ),
    Row(
        "MPT",
        "mpt",
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
        ("Wqkv", "out_proj"),
        note="ALiBi",
    ),
    Row(
        "Granite",
        "granite",
        {**_GROUPED, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
        note="scaled embeddings and logits",
    ),
    Row("OLMo", "olmo", {**_GROUPED, "clip_qkv": 1.0}, note="clipped attention"),
    Row("OLMo 2", "olmo2", _GROUPED),
    Row("OLMo 3", "olmo3", {**_GROUPED, **_SLIDING}),
    Row("SmolLM 3", "smollm3", {**_GROUPED, "no_rope_layers": [1, 0]}),
    Row("StableLM", "stablelm", {**_GROUPED, "use_parallel_residual": True}),
    Row("StarCoder 2", "starcoder2", {**_GROUPED, **_SLIDING}),
    Row("Command R", "cohere", _GROUPED, note="parallel branches, scaled logits"),
    Row("Command R7B and A", "cohere2", {**_GROUPED, **_SLIDING}),
    Row("GLM", "glm", _GROUPED),
    Row("GLM 4", "glm4", _GROUPED),
    Row("Nemotron", "nemotron", _GROUPED),
    Row("Helium", "helium", _GROUPED),
    Row("Apertus", "apertus", _GROUPED),
    Row("Arcee", "arcee", _GROUPED),
    Row("EXAONE 4", "exaone4", {**_GROUPED, **_SLIDING}),
    Row("Hunyuan (dense)", "hunyuan_v1_dense", _GROUPED),
    Row("ERNIE 4.5", "ernie4_5", _GROUPED),
    Row("Seed-OSS", "seed_oss", _GROUPED),
    Row("HyperCLOVA X", "hyperclovax", _GROUPED),
    Row("Jais 2", "jais2", _GROUPED),
    Row("MiniCPM 3", "minicpm3", _LATENT, ("q_b_proj", "kv_b_proj", "o_proj"),
        note="latent attention"),
    Row("Youtu-LLM", "youtu", _LATENT, ("q_b_proj", "kv_b_proj", "o_proj"),
        note="latent attention"),
    Row("CWM", "cwm", {**_GROUPED, **_SLIDING}),
    Row("BitNet", "bitnet", _GROUPED, note="unpacked weights"),
    Row("DiffLlama", "diffllama", _GROUPED, gain=1.0),
    Row("nanochat", "nanochat", _GROUPED),
    Row(
        "Persimmon",
        "persimmon",
        _SMALL,
        ("query_key_value", "dense"),
    ),
    Row(
        "Ettin (ModernBERT decoder)",
        "modernbert-decoder",
        {**_SMALL, "local_attention": 8},
        ("q_proj", "v_proj"),
        selective=False,
        note="a tuned layer inside the output head",
    ),
)  # fmt: skip

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
        {**_SMALL, "num_key_value_heads": 1, "lru_width": 32, "num_hidden_layers": 3,
         "attention_window_size": 8},
    ),
    Row(
        "Bamba",
        "bamba",
        {**_GROUPED, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8,
         "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    Row(
        "Falcon H1",
        "falcon_h1",
        {**_GROUPED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1,
         "mamba_d_ssm": 64, "mamba_d_state": 8, "mamba_chunk_size": 8},
        all_linear=REFUSED_PEFT,
        note="as Mamba",
    ),
    Row(
        "Nemotron H",
        "nemotron_h",
        {**_GROUPED, "layers_block_type": ["mamba", "attention", "mlp"],
         "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1,
         "ssm_state_size": 8, "chunk_size": 8},
        all_linear=REFUSED_PEFT,
        note="as Mamba",
    ),
    Row(
        "Granite 4 H (dense)",
        "granitemoehybrid",
        {**_GROUPED, "layer_types": ["mamba", "attention"], "num_local_experts": 0,
         "shared_intermediate_size": 48, "mamba_n_heads": 8, "mamba_d_head": 8,
         "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    Row(
        "Jamba (dense)",
        "jamba",
        {**_GROUPED, "num_experts": 1, "num_experts_per_tok": 1,
         "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8,
         "mamba_dt_rank": 4, "use_mamba_kernels": False},
        all_linear=REFUSED_ABSENT,
        note="`dt_proj` is read around its module",
    ),
    Row(
        "Zamba 2",
        "zamba2",
        {**_SMALL, "num_key_value_heads": 4,
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
        {**_GROUPED, "layer_types": ["conv", "full_attention"]},
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        note="short convolutions",
    ),
    Row(
        "OLMo hybrid",
        "olmo_hybrid",
        {**_GROUPED, **_DELTA, "layer_types": ["linear_attention", "full_attention"]},
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
    _experts("Mixtral", "mixtral", _GROUPED),
    _experts("Qwen 2 MoE", "qwen2_moe", _GROUPED),
    _experts("Qwen 3 MoE", "qwen3_moe", _GROUPED),
    _experts("Qwen 3 Next", "qwen3_next", {**_GROUPED, **_DELTA}),
    _experts("GPT-OSS", "gpt_oss", _GROUPED),
    _experts("Llama 4 (text)", "llama4_text", {**_GROUPED, "intermediate_size_mlp": 48}),
    _experts("OLMoE", "olmoe", _GROUPED),
    _experts("DeepSeek V2", "deepseek_v2",
             {**_LATENT, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    _experts("DeepSeek V3", "deepseek_v3",
             {**_LATENT, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    _experts("Phi 3.5 MoE", "phimoe", _GROUPED),
    _experts("Granite MoE", "granitemoe", _GROUPED),
    _experts("JetMoE", "jetmoe", {**_GROUPED, "kv_channels": 8}),
    _experts("ERNIE 4.5 MoE", "ernie4_5_moe", {**_GROUPED, "moe_k": 2}),
    _experts("GLM 4.5", "glm4_moe",
             {**_GROUPED, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    _experts("Hunyuan MoE", "hunyuan_v1_moe", _GROUPED),
    _experts("MiniMax M2", "minimax_m2", _GROUPED),
    _experts("Jamba", "jamba",
             {**_GROUPED, "mamba_d_state": 8, "mamba_dt_rank": 4,
              "use_mamba_kernels": False}),
    _experts("Granite 4 H", "granitemoehybrid",
             {**_GROUPED, "layer_types": ["mamba", "attention"],
              "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}),
)  # fmt: skip

_NOT_CAUSAL = (
    Row("BERT, as a decoder", "bert", _SMALL, ("query", "value"),
        all_linear=REFUSED_AHEAD, named=REFUSED_AHEAD),
    Row("RoBERTa, as a decoder", "roberta", _SMALL, ("query", "value"),
        all_linear=REFUSED_AHEAD, named=REFUSED_AHEAD),
    Row("BART's decoder", "bart",
        {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4,
         "decoder_ffn_dim": 48, "max_position_embeddings": 128},
        ("q_proj", "v_proj"), all_linear=REFUSED_ABSENT, named=REFUSED_ABSENT,
        note="its attention to an encoder"),
    Row("CTRL", "ctrl", {**_GPT2, "dff": 48}, ("Wq", "Wv"),
        all_linear=REFUSED_HOOKS, named=REFUSED_HOOKS,
        note="changes its embeddings in place"),
)  # fmt: skip

ROWS = (*_DENSE, *_STATE_SPACE, *_ROUTED, *_NOT_CAUSAL)


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
