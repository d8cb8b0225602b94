"""Base models that can't be tuned privately, by what they are: refused by name.

This looks at how a model is built; `preflight` looks at how it behaves, so that a model
that nobody has thought of is refused too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fedit_secure.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

# transformers calls these modules so in every family.
_ROUTED = re.compile(r"Experts|Router|TopKGating")


def refuse_kind(config: PretrainedConfig) -> None:
    """Refuse what isn't a language model of plain tokens.

    Raises:
        ConfigError: an encoder with a decoder, or more than tokens as input.
    """
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"the base model ({kind}) is an encoder with a decoder, not a causal "
            "language model"
        )
    senses = ("vision_config", "audio_config")
    if config.get_text_config() is not config or any(
        getattr(config, name, None) is not None for name in senses
    ):
        raise ConfigError(
            f"the base model ({kind}) takes more than tokens; give its text model alone"
        )


def refuse_coupled_records(model: nn.Module) -> None:
    """Refuse a model in which one record changes what another one contributes.

    Per-record clipping bounds nothing there: a neighbouring data set would change the
    gradients of all records of a batch.

    Routed experts do it through rounding. Another record changes the padding and the
    grouping, and with them the last bits of a token's scores; where two experts score
    alike, these bits decide which one is used, and that moves the record's gradient by
    far more than the rounding that the noise covers (`privacy.sensitivity`).

    Raises:
        ConfigError: names the module or setting that couples records.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    config: Any = model.config
    config = config.get_text_config()
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
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            raise ConfigError(
                f"the base model normalises over the batch (module {name!r}), which "
                "mixes records: it can't be tuned privately"
            )
        if _ROUTED.search(type(module).__name__):
            raise ConfigError(
                f"the base model routes each token to some of its experts (module "
                f"{name!r}), and another record can change the choice by rounding: it "
                "can't be tuned privately"
            )
