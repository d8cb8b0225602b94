"""An adapter folded into its base model: a folder that needs no PEFT to be opened."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fedit_secure import __version__
from fedit_secure.config import Device, Precision
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.base_model import base_model_digest
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import make_folder, sync_folder, write_durably
from fedit_secure.tuning.base_model import check_digest, load_base_model, load_tokenizer
from fedit_secure.tuning.chat_template import CHAT
from fedit_secure.tuning.examples import load_template
from fedit_secure.tuning.quantization import stored_quantization
from fedit_secure.tuning.saved_adapter import SavedAdapter, put_on

MERGED = "fedit-merge.json"
"""What was merged, beside the merged weights."""
_RUN_DEPTHS = (1, 3)  # adapter/ and rounds/NNN/adapter/, below a run's folder


@dataclass(frozen=True, slots=True)
class Merge:
    """What is merged into what, and where the result goes.

    Attributes:
        base: the folder of the base model.
        adapter: plain LoRA.
        output: the folder to be made; its parent must exist or be makeable.
        base_digest: hexadecimal, what the base model must have; None: any base model
            that the adapter's tensors fit.
        precision: of the weights that are written.
        device: where they are added.
        stops: tokens that end an answer, for whoever generates with the merged model;
            none: as the base model says.
        force: replace `output` if it is an earlier merge.
    """

    base: Path
    adapter: SavedAdapter
    output: Path
    base_digest: str | None = None
    precision: Precision = "float32"
    device: Device = "cpu"
    stops: tuple[int, ...] = ()
    force: bool = False


def charter_of_run(adapter: Path) -> Path | None:
    """The charter.json of the run in whose folder an adapter folder lies, if any."""
    parents = adapter.resolve().parents
    for depth in _RUN_DEPTHS:
        if depth <= len(parents):
            path = parents[depth - 1] / "charter.json"
            if path.is_file():
                return path
    return None


def agreed_digest(charter: Path | None, adapter: SavedAdapter) -> str | None:
    """The base model's digest by the charter; None without one.

    Raises ConfigError if the charter can't be read, or is of another adapter.
    """
    if charter is None:
        return None
    agreed = Charter.load(charter)
    if tuple(agreed.adapter.layout) != adapter.layout:
        raise ConfigError(
            f"the adapter {adapter.name} isn't one of the charter {charter}: its tensors "
            "are others"
        )
    return agreed.base_model.digest


def agreed_stops(charter: Path | None, base: Path) -> tuple[int, ...]:
    """The tokens that end an answer, where a charter's template ends it by its own.

    Without them, other programs would let the merged model talk on. Raises ConfigError
    if the charter can't be read, or its template isn't the base model's.
    """
    agreed = None if charter is None else Charter.load(charter).template
    if agreed is None or agreed.name != CHAT:
        return ()
    tokenizer = load_tokenizer(base)
    return tuple(load_template(CHAT, tokenizer, agreed.digest).stops(tokenizer))


def merge(what: Merge) -> dict[str, Any]:
    """Write the merged model; returns what `fedit-merge.json` says.

    The weights are added in float32 and written as safetensors. The folder appears
    whole or not at all.

    Raises:
        ConfigError: the base model is quantised, isn't the one that was agreed on, or
            doesn't fit the adapter; `output` exists and isn't to be replaced.
        StorageError: the folder can't be written.
    """
    refuse_output(what)
    if stored_quantization(what.base) != "none":
        raise ConfigError(
            f"{what.base}: the base model is quantised, and merging would round the "
            "adapter away: merge into the model that it was quantised from"
        )
    if what.base_digest is not None:
        check_digest(what.base, what.base_digest)
    tokenizer = load_tokenizer(what.base)
    model = load_base_model(what.base, device=what.device)
    tuned = put_on(model, what.adapter)
    # `safe_merge` refuses a sum that isn't finite.
    merged: Any = tuned.merge_and_unload(safe_merge=True)
    parent = what.output.absolute().parent
    make_folder(parent)
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{what.output.name}.", dir=parent))
    except OSError as error:
        raise StorageError(f"{parent} can't be written: {error.strerror}") from error
    try:
        told = _write(what, merged, tokenizer, draft)
        draft.chmod(0o755)
        if what.output.exists():
            shutil.rmtree(what.output)
        draft.rename(what.output)
        sync_folder(parent)
    except OSError as error:
        raise StorageError(
            f"{what.output} can't be written: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return told


def refuse_output(what: Merge) -> None:
    """Refuse an output folder that would overwrite anything but an earlier merge.

    Raises ConfigError.
    """
    output = what.output
    for kept, role in ((what.base, "base model"), (Path(what.adapter.name), "adapter")):
        inside = kept.resolve().is_relative_to(output.resolve())
        if inside or output.resolve().is_relative_to(kept.resolve()):
            raise ConfigError(f"{output}: is, or is part of, the {role}'s own folder")
    if not output.exists() and not output.is_symlink():
        return
    if not what.force:
        raise ConfigError(f"{output} exists already: give --force to replace it")
    ours = output.is_dir() and not output.is_symlink()
    if not ours or (any(output.iterdir()) and not (output / MERGED).is_file()):
        raise ConfigError(
            f"{output} holds no {MERGED}, so it is no earlier merge and isn't replaced"
        )


def _write(what: Merge, merged: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    import torch

    if what.precision != "float32":
        merged = merged.to(torch.bfloat16)
    if what.stops:
        merged.generation_config.eos_token_id = list(what.stops)
    merged.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    told = {
        "base_model": base_model_digest(what.base).hex(),
        "adapter": what.adapter.digest,
        "lora": what.adapter.lora.model_dump(mode="json"),
        "merged_model": base_model_digest(folder).hex(),
        "precision": what.precision,
        "files": _digests(folder),
        "versions": {"fedit-secure": __version__} | _versions("peft", "transformers"),
    }
    text = json.dumps(told, indent=2, sort_keys=True) + "\n"
    write_durably(folder / MERGED, text.encode())
    return told


def _digests(folder: Path) -> Mapping[str, str]:
    """SHA-256 of every file of the folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _versions(*packages: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in packages}
