"""The simulation.yaml that `fedit data split` lays beside the silos' records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedit_secure.cli.splitting import HELD_OUT, RECORDS, Split
from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import write_durably
from fedit_secure.federation.policy import UNITS_PER_DELTA
from fedit_secure.tuning.job import ColumnMap, DataSource
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.units import count_units

FILE = "simulation.yaml"
_TEXT = """\
# What `fedit simulate` runs. Change what you like; docs/tuning.md says what there is.
{base}output: run
{data}
template: {template}
max_tokens: 256
lora: {{rank: 8}}
tuning: {{learning_rate: 0.003, local_steps: {steps}}}
rounds: {rounds}
{dp}{pair}"""
_PAIR = """\
# In a federation of two, each can subtract its own update from the sum.
secagg: {allow_pair: true}
"""


@dataclass(frozen=True, slots=True)
class Planned:
    """What the options say of the run; `epsilon` None is without privacy."""

    model: str
    template: str
    rounds: int
    steps: int
    epsilon: float | None


def write_simulation(
    split: Split, folder: Path, columns: ColumnMap, planned: Planned
) -> Path:
    """Write the file for silos whose records are in `folder`; returns its path.

    A silo's expected batch is a quarter of its records, or persons where a column names
    them. Raises ConfigError if the file exists.
    """
    path = folder / FILE
    sources = {name: f"{name}/{RECORDS}" for name in split.silos}
    units = {
        name: _units(folder / records, columns) for name, records in sources.items()
    }
    named = columns.model_dump(exclude_defaults=True)
    entry = {"columns": named} if named else {}
    data: dict[str, Any] = {
        "data": {name: {"path": records} | entry for name, records in sources.items()}
    }
    if split.held_out:
        data["held_out"] = {"path": HELD_OUT} | entry
    text = _TEXT.format(
        base=_yaml({"base_model": _model(planned.model)}),
        data=_yaml(data).rstrip(),
        template=planned.template,
        steps=planned.steps,
        rounds=planned.rounds,
        dp=_yaml({"dp": _privacy(units, planned.epsilon)}),
        pair=_PAIR if len(units) == 2 else "",
    )
    write_durably(path, text.encode(), replace=False)
    return path


def require_free(folder: Path) -> None:
    """Raises ConfigError if the file is there already."""
    if (folder / FILE).exists():
        raise ConfigError(f"{folder / FILE} exists already, and is not overwritten")


def _units(records: Path, columns: ColumnMap) -> int:
    source = DataSource(path=str(records), columns=columns)
    unit = "record" if columns.person is None else "person"
    return count_units(load_records(source), unit)


def _privacy(units: Mapping[str, int], epsilon: float | None) -> dict[str, Any]:
    batches = {"expected_batch": {name: max(1, n // 4) for name, n in units.items()}}
    if epsilon is None:
        return {"kind": "none"} | batches
    # A tenth or less of one record's share: the power of ten below it.
    digits = len(str(UNITS_PER_DELTA * max(units.values()) - 1))
    return {"epsilon": epsilon, "delta": float(f"1e-{digits}")} | batches


def _model(model: str) -> str:
    path = Path(model)
    return str(path.resolve()) if path.is_dir() else model


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
