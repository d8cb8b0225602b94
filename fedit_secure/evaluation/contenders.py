"""The models that are held against each other: a base, adapters of it, merged models."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedit_secure.config import Device, Precision, Quantization
from fedit_secure.errors import ConfigError
from fedit_secure.tuning.base_model import (
    check_digest,
    load_base_model,
    load_tokenizer,
    refuse_too_long,
)
from fedit_secure.tuning.saved_adapter import SavedAdapter, put_on

BASE = "base"


@dataclass(frozen=True, slots=True)
class Contenders:
    """What is loaded, one after the other; the first is what the others are held against.

    Attributes:
        base: the base model's folder.
        adapters: of that base.
        merged: folders of whole models with the same tokenizer.
        base_digest: hexadecimal, what the base must have; None: any.
        device, precision, quantization: of every model.
    """

    base: Path
    adapters: tuple[SavedAdapter, ...] = ()
    merged: tuple[Path, ...] = ()
    base_digest: str | None = None
    device: Device = "cpu"
    precision: Precision = "float32"
    quantization: Quantization = "none"

    @property
    def names(self) -> list[str]:
        """Each model's name, in the order of `each`."""
        adapters = [adapter.name for adapter in self.adapters]
        return [BASE, *adapters, *(str(folder) for folder in self.merged)]

    def each(self, max_tokens: int = 1) -> Generator[tuple[str, Any, Any], None, None]:
        """(name, model, tokenizer) of every model; a model is good until the next.

        Adapters share the base's weights, so that no more than two models are ever in
        memory.

        Raises:
            ConfigError: a model can't be loaded, has too few positions for `max_tokens`,
                isn't the one with the digest, or doesn't fit its adapter; a merged model
                has another tokenizer, whose NLL per token would be another quantity.
        """
        if self.base_digest is not None:
            check_digest(self.base, self.base_digest)
        tokenizer = load_tokenizer(self.base)
        model = self.load(self.base)
        refuse_too_long(model, tokenizer, max_tokens)
        yield BASE, model, tokenizer
        for adapter in self.adapters:
            tuned = put_on(model, adapter)
            try:
                yield adapter.name, tuned, tokenizer
            finally:
                tuned.unload()
        del model
        for folder in self.merged:
            own = load_tokenizer(folder)
            if _ways(own) != _ways(tokenizer):
                raise ConfigError(
                    f"{folder}: its tokenizer isn't the base model's, so their NLLs per "
                    "token can't be compared"
                )
            whole = self.load(folder)
            refuse_too_long(whole, own, max_tokens)
            yield str(folder), whole, own

    def load(self, folder: Path) -> Any:
        """The model in `folder`, as all of them are loaded. Raises ConfigError."""
        return load_base_model(
            folder,
            device=self.device,
            precision=self.precision,
            quantization=self.quantization,
        )


def _ways(tokenizer: Any) -> tuple[dict[str, int], int | None]:
    return tokenizer.get_vocab(), tokenizer.eos_token_id
