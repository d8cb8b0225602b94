"""Which models a command was given, and with which words they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedit_secure.errors import ConfigError

if TYPE_CHECKING:
    from fedit_secure.config import Device, Precision, Quantization
    from fedit_secure.evaluation.contenders import Contenders
    from fedit_secure.tuning.saved_adapter import SavedAdapter

DEFAULT_TEMPLATE = "alpaca"
DEFAULT_MAX_TOKENS = 256

ModelOption = Annotated[
    str | None,
    typer.Option(help="The base model: folder or hub name; default: the adapter's."),
]
AdapterOption = Annotated[
    list[Path] | None,
    typer.Option("--adapter", help="A PEFT folder; may be given several times."),
]
MergedOption = Annotated[
    list[Path] | None,
    typer.Option("--merged", help="A merged model's folder; may be repeated."),
]
CharterOption = Annotated[
    Path | None,
    typer.Option(help="Names base model and template; default: the adapter's run's."),
]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The models, and what a charter says of prompts (or the usual, without one).

    `template_digest` is the charter's, unless an option named another template.
    """

    contenders: Contenders
    template: str
    template_digest: str | None
    max_tokens: int
    charter: Path | None


def chosen_models(
    model: str | None,
    adapters: Sequence[Path],
    merged: Sequence[Path],
    charter: Path | None = None,
    *,
    own: Sequence[SavedAdapter] = (),
    template: str | None = None,
    max_tokens: int | None = None,
    device: Device = "cpu",
    precision: Precision = "float32",
    quantization: Quantization = "none",
) -> Chosen:
    """Reads adapters and charter, and finds the base model. Loads no weights.

    `own` are adapters that were read elsewhere, of the charter's base model.

    Raises ConfigError naming what is missing or doesn't belong together.
    """
    from fedit_secure.evaluation.contenders import Contenders
    from fedit_secure.evaluation.merge import agreed_digest, charter_of_run
    from fedit_secure.federation.charter import Charter
    from fedit_secure.tuning.base_model import resolve_base_model
    from fedit_secure.tuning.saved_adapter import read_peft_adapter

    saved = [read_peft_adapter(folder) for folder in adapters]
    if charter is None and adapters:
        charter = charter_of_run(adapters[0])
    digests = {agreed_digest(charter, adapter) for adapter in saved}
    agreed = None if charter is None else Charter.load(charter)
    if agreed is not None:
        digests.add(agreed.base_model.digest)
    name = model or next((a.base_model for a in saved if a.base_model), None)
    if name is None:
        raise ConfigError("there is no base model: give --model")
    for folder in merged:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder of a merged model")
    contenders = Contenders(
        base=resolve_base_model(name),
        adapters=(*saved, *own),
        merged=tuple(merged),
        base_digest=next(iter(digests - {None}), None),
        device=device,
        precision=precision,
        quantization=quantization,
    )
    return Chosen(
        contenders,
        template or (agreed.template.name if agreed else DEFAULT_TEMPLATE),
        agreed.template.digest if agreed and not template else None,
        max_tokens or (agreed.max_tokens if agreed else DEFAULT_MAX_TOKENS),
        charter,
    )
