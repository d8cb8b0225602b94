"""A name for an adapter's tensors, whatever file they are in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fedit_secure.errors import StorageError
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.secagg.transcript import Blob, digest, join, u64


def adapter_digest(tensors: Iterable[tuple[str, NDArray[np.float32]]]) -> str:
    """In hex, over names, shapes and little-endian float32 values, sorted by name.

    A .safetensors file's own digest would depend on who wrote its header.
    """
    parts: list[Blob] = []
    for name, values in sorted(tensors, key=lambda pair: pair[0]):
        data = np.ascontiguousarray(values, dtype="<f4")
        parts += [name.encode(), join(*map(u64, data.shape)), data.data.cast("B")]
    return digest("fedit/adapter/v1", *parts).hex()


def adapter_of(state: GridState) -> str:
    """The digest of the adapter that a certified state becomes."""
    flat, start, tensors = to_float32(state), 0, []
    for name, shape in state.adapter_layout:
        size = int(np.prod(shape))
        tensors.append((name, flat[start : start + size].reshape(shape)))
        start += size
    return adapter_digest(tensors)


def digest_of_file(path: Path) -> str:
    """The digest of the tensors in a .safetensors file; StorageError if it isn't one."""
    try:
        with safe_open(path, framework="numpy") as file:
            return adapter_digest((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path} can't be read: {error}") from error
