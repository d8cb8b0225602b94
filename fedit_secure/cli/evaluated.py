"""From the options of `fedit evaluate` to its tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from fedit_secure.cli.certified_adapter import certified_adapter
from fedit_secure.cli.columns import columns_of
from fedit_secure.cli.contending import Chosen, chosen_models
from fedit_secure.cli.output import TableFormat, note, show
from fedit_secure.cli.steps import Steps
from fedit_secure.config import Device, Precision, Quantization, load_silo_config
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import write_durably
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import Record, load_records
from fedit_secure.tuning.saved_adapter import SavedAdapter

OWN = (
    "a silo's own records: these figures depend on them without any privacy, and are for "
    "whoever keeps the records"
)
_OWNER_ONLY = 0o600
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Asked:
    """The models that were asked for, as the options name them."""

    model: str | None
    adapters: tuple[Path, ...]
    merged: tuple[Path, ...]
    charter: Path | None
    template: str | None
    max_tokens: int | None
    device: str
    precision: str
    quantization: str
    own: SavedAdapter | None = None

    def at_silo(self, config: Path) -> Asked:
        """With the silo's model, charter and device; what an option names, it keeps.

        Where it names no model but the base, with the adapter that the silo has after the
        last certified round, if there is one.
        """
        silo = load_silo_config(config)
        charter = self.charter or (silo.charter if silo.charter.exists() else None)
        own = None
        if charter is not None and not self.adapters and not self.merged:
            own = certified_adapter(silo, Charter.load(charter))
        return replace(
            self,
            model=self.model or silo.model,
            charter=charter,
            own=own,
            device=silo.device,
            precision=silo.precision,
            quantization=silo.quantization,
        )

    def chosen(self) -> Chosen:
        """The models, found and read but not loaded. Raises ConfigError."""
        for name, value, kind in (
            ("device", self.device, Device),
            ("precision", self.precision, Precision),
            ("quantization", self.quantization, Quantization),
        ):
            if value not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"--{name} {value!r} isn't one of {known}")
        return chosen_models(
            self.model,
            self.adapters,
            self.merged,
            self.charter,
            own=() if self.own is None else (self.own,),
            template=self.template,
            max_tokens=self.max_tokens,
            device=self.device,  # type: ignore[arg-type]
            precision=self.precision,  # type: ignore[arg-type]
            quantization=self.quantization,  # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True)
class Scoring:
    """How many records, and how they are scored."""

    max_new_tokens: int
    limit: int | None
    batch: int
    confidence: float
    seed: int


def source_of(
    data: str | None, columns: str, split: str, silo: Path | None
) -> DataSource:
    """The records' place and columns. Raises ConfigError for columns that aren't any."""
    if silo is not None:
        if columns:
            raise ConfigError("--columns: the silo.yaml says them already")
        return DataSource.model_validate(load_silo_config(silo).data.model_dump())
    assert data is not None
    return DataSource(path=data, columns=columns_of(columns), split=split)


def drawn(items: Sequence[_Item], limit: int | None, seed: int) -> list[_Item]:
    """`limit` of them, drawn without replacement, in their order; all of them if None."""
    if limit is None or limit >= len(items):
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
    return [items[slot] for slot in sorted(chosen.tolist())]


def on_records(
    asked: Asked,
    source: DataSource,
    scoring: Scoring,
    output: Path | None,
    format: TableFormat,
    *,
    own: bool,
) -> None:
    """Scores every model on the records and prints it. Raises ConfigError."""
    from fedit_secure.evaluation.side_by_side import Settings, side_by_side
    from fedit_secure.tuning.base_model import load_tokenizer
    from fedit_secure.tuning.examples import load_template

    chosen = asked.chosen()
    template = load_template(
        chosen.template, load_tokenizer(chosen.contenders.base), chosen.template_digest
    )
    records = load_records(source)
    if source.held_out is not None:  # the others were tuned on
        records = [record for record in records if record.held_out]
        if not records:
            raise ConfigError("'data.held_out' holds out none of this silo's records")
    tried = drawn(records, scoring.limit, scoring.seed)
    settings = Settings(
        template,
        max_tokens=chosen.max_tokens,
        max_new_tokens=scoring.max_new_tokens,
        batch=scoring.batch,
        confidence=scoring.confidence,
        seed=scoring.seed,
    )
    with Steps() as steps:
        found = side_by_side(chosen.contenders, tried, settings, steps)
    facts: dict[str, Any] = {
        "data": source.path,
        "records": f"{len(tried)} of {len(records)}",
        "skipped": found.skipped,
        "template": chosen.template,
        "max_tokens": chosen.max_tokens,
        "base_model": str(chosen.contenders.base),
        "confidence": scoring.confidence,
    }
    if own:
        facts = {"private": OWN} | facts
        if format is TableFormat.CSV:
            note(f"these are {OWN}")
    rows = [asdict(row) for row in found.rows]
    if output is not None:
        _write(output, facts, rows, tried, found.answers)
    show(facts, format, {"scores": rows})


def _write(
    output: Path,
    facts: dict[str, Any],
    rows: list[dict[str, Any]],
    records: Sequence[Record],
    answers: dict[str, list[str]],
) -> None:
    told = [
        {
            "instruction": record.instruction,
            "input": record.input,
            "response": record.response,
            "answers": {model: given[slot] for model, given in answers.items()},
        }
        for slot, record in enumerate(records)
    ]
    content = facts | {"scores": rows, "answers": told}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_durably(output, text.encode(), mode=_OWNER_ONLY)


def on_tasks(
    asked: Asked,
    names: str,
    folder: Path | None,
    limit: int | None,
    batch: int,
    seed: int,
    format: TableFormat,
) -> None:
    """Has lm-eval measure every model, and prints it. Raises ConfigError."""
    from fedit_secure.evaluation.tasks import TaskSettings, run_tasks

    split = tuple(filter(None, (name.strip() for name in names.split(","))))
    if not split:
        raise ConfigError("--tasks names no task")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of task files")
    chosen = asked.chosen()
    settings = TaskSettings(split, folder, limit, batch=batch, seed=seed)
    rows = run_tasks(chosen.contenders, settings)
    facts = {"base_model": str(chosen.contenders.base), "limit": limit}
    show(facts, format, {"tasks": [asdict(row) for row in rows]})
