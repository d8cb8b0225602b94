"""Options of LoRA that other tools have and a plan here can't name, each with its reason.

The names are PEFT's. A plan that carries one is refused in words: an option that was
ignored would tune something else than its author means.
"""

from __future__ import annotations

_TOKENS = "the gradient has a row per token, not per record"
_READS = "reads records before the first charge"
_CHANGES = "changes the base model's weights, which all silos must share"

_STARTS = {
    "eva": f"EVA {_READS}, and init: own-text doesn't",
    "corda": f"CorDA {_READS}",
    "lora_ga": f"LoRA-GA {_READS}",
    "pissa": f"PiSSA {_CHANGES}",
    "olora": f"OLoRA {_CHANGES}",
    "loftq": f"LoftQ {_CHANGES}",
}
_FIXED_START = "A begins as init says, random or own-text, and B is zero"

REASONS = {
    # Under another name here.
    "r": "it is called rank",
    "lora_alpha": "it is called alpha",
    "lora_dropout": "it is called dropout",
    "target_modules": "it is called targets",
    # No gradient per record.
    "use_dora": "DoRA's magnitudes have no gradient per record",
    "lora_bias": "a bias isn't tuned per record",
    "bias": "a bias isn't tuned per record",
    "modules_to_save": f"of an embedding or a head, {_TOKENS}",
    "trainable_token_indices": f"of an embedding, {_TOKENS}",
    "target_parameters": "experts see single tokens, not one row per record",
    "alora_invocation_tokens": "an adapter that some tokens switch on isn't checked",
    "use_qalora": "QALoRA pools inputs, which isn't checked per record",
    "velora_config": "VeLoRA compresses what a gradient per record needs",
    "monteclora_config": "MonteCLoRA draws random numbers in each pass",
    "arrow_config": "Arrow routes each token by rank, where rounding decides ties",
    "use_bdlora": "BD-LoRA isn't checked per record",
    "kasa_config": f"KaSA {_CHANGES}",
    # Reads records, or changes the base model.
    "eva_config": _STARTS["eva"],
    "corda_config": _STARTS["corda"],
    "lora_ga_config": _STARTS["lora_ga"],
    "loftq_config": _STARTS["loftq"],
    "layer_replication": "it builds another model than the one whose digest is agreed",
    # Exact, but not offered: one way to say it is enough.
    "use_rslora": "it only scales: give alpha times the root of rank instead",
    "rank_pattern": "one rank holds for all targets",
    "alpha_pattern": "one alpha holds for all targets",
    "exclude_modules": "name the targets instead",
    "layers_to_transform": "name the targets instead",
    "layers_pattern": "name the targets instead",
    "peft_type": "only LoRA is known to have a gradient per record",
    "init_lora_weights": _FIXED_START,
}


def lora_refusal(option: str, value: object) -> str | None:
    """Why a plan can't have `option` at `value`: a clause that names it, or None."""
    if option not in REASONS:
        return None
    if option == "init_lora_weights" and isinstance(value, str):
        # PiSSA's variants carry a number: pissa_niter_4.
        method = value.lower().split("_niter_")[0]
        if method in _STARTS:
            return f"can't be {method}: {_STARTS[method]}"
    return f"isn't an option here: {REASONS[option]}"
