"""The frozen base model: finding it, loading it, refusing one that can't be used.

Only safetensors are read and no code of a model's author is run: a base model is data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedit_secure.errors import ConfigError
from fedit_secure.federation.base_model import (
    DIGESTED_FILES,
    base_model_digest,
    base_model_files,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def resolve_base_model(model: str) -> Path:
    """The folder of `model`: itself, or the local copy of that hub repository.

    Raises:
        ConfigError: neither a folder nor a repository that can be had.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise ConfigError(f"{model}: no such base model folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(DIGESTED_FILES)))
    # The hub's client raises many unrelated types: offline, unknown, gated, damaged.
    except Exception as wrong:  # noqa: BLE001
        raise ConfigError(
            f"{model}: is neither a base model folder here nor one that the hub gives "
            f"us ({type(wrong).__name__})"
        ) from None


def check_digest(folder: Path, expected: str) -> None:
    """Refuse a base model whose digest isn't `expected` (hexadecimal).

    Raises:
        ConfigError: names the folder and the start of both digests.
    """
    actual = base_model_digest(folder).hex()
    if actual != expected:
        raise ConfigError(
            f"{folder}: isn't the base model that was agreed on: its digest is "
            f"{actual[:16]}..., not {expected[:16]}..."
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`. Raises ConfigError when there is none to be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
    # A damaged file surfaces as whatever the parser behind it happens to raise.
    except Exception as wrong:  # noqa: BLE001
        raise ConfigError(
            f"{folder}: its tokenizer can't be loaded ({type(wrong).__name__})"
        ) from None


def load_base_model(folder: Path) -> PreTrainedModel:
    """The causal language model in `folder`: float32, frozen, in evaluation mode.

    Raises:
        ConfigError: not a causal language model that transformers knows, damaged
            weights, or a model that `refuse_coupled_records` refuses.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    base_model_files(folder)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as wrong:  # noqa: BLE001 - as for the tokenizer
        raise ConfigError(
            f"{folder}: isn't a causal language model that can be loaded "
            f"({type(wrong).__name__})"
        ) from None
    refuse_coupled_records(model)
    model.requires_grad_(False)
    model.train(False)
    return model


def refuse_coupled_records(model: PreTrainedModel) -> None:
    """Refuse a model in which one record changes what another one contributes.

    Per-record clipping bounds nothing there: a neighbouring data set would change the
    gradients of all records of a batch. This looks at how the model is built;
    `dp_step` looks at how it behaves.

    Raises:
        ConfigError: names the module or setting that couples records.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise ConfigError(
                f"the base model normalises over the batch (module {name!r}), which "
                "mixes records: it can't be tuned privately"
            )
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        raise ConfigError(
            "the base model adds a loss that balances its experts over the batch "
            "(output_router_logits), which mixes records: it can't be tuned privately"
        )
    if getattr(config, "expert_capacity", None) is not None:
        raise ConfigError(
            "the base model's experts take a limited number of tokens of the batch "
            "(expert_capacity), which mixes records: it can't be tuned privately"
        )


def refuse_too_long(model: PreTrainedModel, tokenizer: Any, max_tokens: int) -> None:
    """Refuse a cut beyond the model's positions, or a tokenizer beyond its vocabulary.

    Raises:
        ConfigError: names both numbers.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise ConfigError(
            f"max_tokens is {max_tokens}, but the base model has {positions} positions"
        )
    rows = vocabulary(model)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} tokens, but the base model {rows}"
        )


def vocabulary(model: nn.Module) -> int:
    """Rows of the model's embedding: every token is below this."""
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    return int(embeddings.weight.shape[0])


def needs_fixed_shapes(model: nn.Module) -> bool:
    """Whether something below float32 takes part: rounding then depends on shapes."""
    import torch

    wide = (torch.float32, torch.float64)
    return any(p.dtype not in wide for p in model.parameters())
