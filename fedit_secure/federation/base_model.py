"""A base model's digest: every party must start from the same weights and tokenizer."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from pathlib import Path

from fedit_secure.errors import ConfigError
from fedit_secure.secagg.transcript import digest

# What decides a model's behaviour: its shape, its weights, its tokenizer. Readmes,
# training logs and other formats of the same weights may differ from party to party.
DIGESTED_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def base_model_files(folder: Path) -> tuple[Path, ...]:
    """The files that the digest of a Hugging Face folder covers, sorted by name.

    Raises ConfigError if the folder is unknown, or holds no config or no safetensors.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no base model folder {folder}")
    files = [
        file
        for file in folder.iterdir()
        if file.is_file() and any(fnmatch(file.name, p) for p in DIGESTED_FILES)
    ]
    names = {file.name for file in files}
    if "config.json" not in names:
        raise ConfigError(f"base model folder {folder} holds no config.json")
    if not any(name.endswith(".safetensors") for name in names):
        raise ConfigError(
            f"base model folder {folder} holds no *.safetensors weights "
            "(pickles aren't read)"
        )
    return tuple(sorted(files, key=lambda file: file.name))


def base_model_digest(folder: Path) -> bytes:
    """SHA-256 (32 bytes) over the sorted (file name, SHA-256) of a base model's files.

    Raises ConfigError as `base_model_files` does, or if a file can't be read.
    """
    fields: list[bytes] = []
    for path in base_model_files(folder):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise ConfigError(
                f"base model file {path} can't be read: {error.strerror}"
            ) from error
        fields += (path.name.encode(), content)
    return digest("fedit/base-model/v1", *fields)
