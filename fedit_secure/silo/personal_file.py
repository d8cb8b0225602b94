"""The file of a silo's own B: what it holds, where it belongs, and how it is named.

Safetensors, under PEFT's keys, with its origin in the header. It is never code, and it is
read only after its digest was held against the journal's, or, where an operator brings it
from elsewhere, after everything in it was held against the charter.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import Layout
from fedit_secure.federation.document import Hex32, Line, Name, Part, describe
from fedit_secure.federation.local_plan import Count
from fedit_secure.secagg.transcript import digest

_ORIGIN = "fedit"  # the header's key


class Origin(Part):
    """Whose B it is, and after which round."""

    format: Literal["fedit/personal/v1"] = "fedit/personal/v1"
    federation: Name
    epoch: Count
    charter: Hex32
    silo: Name
    population: Line
    round: Count


class Held(Part):
    """A file as the journal names it: nothing else counts as this silo's own B."""

    epoch: Count
    charter: Hex32
    population: Line
    round: Count
    digest: Hex32

    @property
    def name(self) -> str:
        """The file's name."""
        return f"epoch-{self.epoch}-round-{self.round}-{self.digest[:16]}.safetensors"

    @classmethod
    def of(cls, origin: Origin, data: bytes) -> Self:
        """The journal's word for a file of this origin and content."""
        told = origin.model_dump(exclude={"format", "federation", "silo"})
        return cls(**told, digest=file_digest(data))


def file_digest(data: bytes) -> str:
    """Names a file's bytes, in hex."""
    return digest("fedit/personal/v1", data).hex()


def packed(origin: Origin, layout: Layout, values: NDArray[np.float32]) -> bytes:
    """The file of `values`, float32 of shape (k,), ordered as `layout`."""
    tensors, start = {}, 0
    for key, shape in layout:
        size = math.prod(shape)
        tensors[key] = values[start : start + size].reshape(tuple(shape))
        start += size
    data: bytes = save(
        tensors, {_ORIGIN: json.dumps(origin.model_dump(mode="json"), sort_keys=True)}
    )
    return data


def unpacked(
    data: bytes, layout: Layout, path: Path
) -> tuple[Origin, NDArray[np.float32]]:
    """Where a file belongs, and its values, float32 of shape (k,), in `layout`'s order.

    Raises ConfigError that names `path`: it isn't such a file, isn't of this layout, or
    holds a value that isn't finite.
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        told = json.loads(header["__metadata__"][_ORIGIN])
        origin = Origin.model_validate(told)
    except ValidationError as wrong:
        raise ConfigError(f"{path}: {describe(wrong.errors()[0])}") from None
    # Beside its own error: a number format that numpy doesn't have, or no such header.
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        raise ConfigError(f"{path}: this isn't the file of a silo's own B") from None
    wanted = {key: tuple(shape) for key, shape in layout}
    found = {key: tensor.shape for key, tensor in tensors.items()}
    if found != wanted or any(each.dtype != "float32" for each in tensors.values()):
        raise ConfigError(f"{path}: its tensors aren't the B of this charter's adapter")
    values = np.concatenate([tensors[key].reshape(-1) for key, _ in layout])
    if not np.isfinite(values).all():
        raise ConfigError(f"{path}: holds a value that isn't finite")
    return origin, values
