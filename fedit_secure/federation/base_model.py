"""A base model's digest: every party must start from the same weights and tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedit_secure.errors import ConfigError
from fedit_secure.secagg.transcript import digest

# What decides a model's behaviour: its shape, its weights, its tokenizer. Readmes,
# licences, training logs and other formats of the same weights may differ.
_PATTERNS = (
    "config*.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "*.model",
)


def base_model_digest(folder: Path) -> bytes:
    """SHA-256 (32 bytes) over the sorted (file name, SHA-256) of a Hugging Face folder.

    Counted are config, tokenizer and safetensors files at the top of the folder. Raises
    ConfigError if the folder is unknown or holds no config or no safetensors weights.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no base model folder {folder}")
    names = sorted(
        {p.name for pattern in _PATTERNS for p in folder.glob(pattern) if p.is_file()}
    )
    if "config.json" not in names:
        raise ConfigError(f"base model folder {folder} holds no config.json")
    if not any(name.endswith(".safetensors") for name in names):
        raise ConfigError(f"base model folder {folder} holds no *.safetensors weights")
    fields: list[bytes] = []
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise ConfigError(
                f"base model file {folder / name} can't be read: {error.strerror}"
            ) from error
        fields += (name.encode(), content)
    return digest("fedit/base-model/v1", *fields)
