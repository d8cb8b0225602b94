"""LoRA dropout whose masks depend on the step, the record and the layer alone.

torch's own draws one mask for a whole physical batch: a record would change which of
the others' inputs are dropped, and with them gradients that the clip can't see. Here
every record has masks of its own, so that what it contributes is the same whoever is
drawn with it. The masks are independent of all records: they cost no privacy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RecordDropout(nn.Module):
    """Drops each input with probability `p`, and scales what remains by 1 / (1 - p).

    Does nothing outside of `drawn`.

    Args:
        p: 0 < p < 1.
        name: the layer's, which its masks depend on.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p, self.name = p, name
        self._seeds: list[tuple[bytes, int]] = []

    def drawn(self, seeds: Sequence[tuple[bytes, int]]) -> None:
        """Draw masks for these rows: each one's seed and number of tokens; none to stop.

        Rows beyond them aren't dropped from: they only fill up a fixed shape.
        """
        self._seeds = list(seeds)

    def forward(self, entered: Tensor) -> Tensor:
        """`entered`, float (rows, tokens, features), with some of it dropped."""
        if not self._seeds:
            return entered
        keep = torch.ones_like(entered)
        for row, (seed, tokens) in enumerate(self._seeds):
            here = keep[row, :tokens]
            here.bernoulli_(1.0 - self.p, generator=self._generator(seed, keep.device))
            here.div_(1.0 - self.p)
        return entered * keep

    def _generator(self, seed: bytes, device: torch.device) -> torch.Generator:
        mixed = hashlib.sha256(seed + self.name.encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(mixed[:8], "little"))


def separate_dropouts(model: nn.Module) -> None:
    """Put a `RecordDropout` in the place of every LoRA dropout of `model`."""
    for name, module in list(model.named_modules()):
        if ".lora_dropout." in f".{name}" and isinstance(module, nn.Dropout):
            parent, _, own = name.rpartition(".")
            layers = model.get_submodule(parent)
            assert isinstance(layers, nn.ModuleDict)
            layers[own] = RecordDropout(module.p, name)


def dropouts(model: nn.Module) -> list[RecordDropout]:
    """Those of `model`."""
    return [m for m in model.modules() if isinstance(m, RecordDropout)]
