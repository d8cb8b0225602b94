"""Global states by their digest, and adapters in the layout that PEFT opens."""

from __future__ import annotations

import json
import logging
import mmap
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedit_secure.errors import MalformedMessage, StorageError
from fedit_secure.federation.durable import make_folder, write_durably
from fedit_secure.federation.update import GridState
from fedit_secure.secagg.messages import Blob

_log = logging.getLogger(__name__)
_ADAPTER_MARKS = (".lora_A.weight", ".lora_B.weight")


class StateStore:
    """A folder of global states, each under the digest that certificates name.

    A state is written whole or not at all, and what is read is what its name says.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._mapped: WeakValueDictionary[tuple[int, int, int], mmap.mmap]
        self._mapped = WeakValueDictionary()
        make_folder(folder)

    def put(self, state: GridState) -> bytes:
        """Write a state, durably; returns its digest. StorageError if it can't be."""
        digest = state.digest()
        try:
            if self.find(digest) is not None and self.get(digest):
                return digest
        except StorageError as error:
            _log.warning("%s; it is written again", error)
        write_durably(self._path(digest), *state.parts())
        return digest

    def get(self, digest: bytes) -> GridState:
        """The state of this digest, its values mapped from the disk; StorageError if it
        is missing or damaged."""
        found = self.find(digest)
        if found is None:
            raise StorageError(f"there is no state {digest.hex()} in {self._folder}")
        try:
            state = GridState.from_bytes(found)
        except MalformedMessage as error:
            raise StorageError(f"{self._path(digest)} is damaged: {error}") from error
        if state.digest() != digest:
            raise StorageError(
                f"{self._path(digest)} isn't the state it is named after"
            )
        return state

    def find(self, digest: bytes) -> Blob | None:
        """A state's bytes as they lie on the disk, mapped and unchecked; or None.

        However many ask for a file at once, it is mapped once.
        """
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                at = os.fstat(file.fileno())
                which = (at.st_ino, at.st_mtime_ns, at.st_size)
                with self._lock:
                    mapped = self._mapped.get(which)
                    if mapped is None:
                        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                        self._mapped[which] = mapped
        except FileNotFoundError:
            return None
        except ValueError:  # an empty file can't be mapped
            return b""
        except OSError as error:
            raise StorageError(f"{path} can't be read: {error.strerror}") from error
        return memoryview(mapped)

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.state"


def save_peft(
    folder: Path,
    arrays: Mapping[str, NDArray[np.float32]],
    lora: Mapping[str, Any],
    base_model: str,
    *,
    mode: int = 0o644,
) -> None:
    """Write an adapter that `PeftModel.from_pretrained(base, folder)` opens.

    Each of the two files is replaced as a whole.

    Args:
        folder: made if it isn't there.
        arrays: tensors by PEFT's own keys, such as
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".
        lora: "rank", "alpha", "dropout" and "targets" of the charter.
        base_model: the name or path of the model that it adapts.
        mode: of the two files.

    Raises:
        StorageError: the folder can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} can't be made: {error.strerror}") from error
    tensors = {
        key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()
    }
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "peft_type": "LORA",
        "r": lora["rank"],
        "target_modules": _target_modules(tensors, lora["targets"]),
        "task_type": "CAUSAL_LM",
    }
    write_durably(
        folder / "adapter_model.safetensors",
        save(tensors, metadata={"format": "pt"}),
        mode=mode,
    )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_durably(folder / "adapter_config.json", text.encode(), mode=mode)


def _target_modules(
    arrays: Mapping[str, NDArray[np.float32]], targets: str | list[str]
) -> list[str]:
    """The names of the adapted modules, as PEFT itself writes them for "all-linear"."""
    if not isinstance(targets, str):
        return list(targets)
    names = set()
    for key in arrays:
        for mark in _ADAPTER_MARKS:
            if key.endswith(mark):
                names.add(key.removesuffix(mark).rsplit(".", 1)[-1])
    return sorted(names)
