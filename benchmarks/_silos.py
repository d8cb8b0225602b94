"""Who holds what in the utility benchmarks: Dolly over drawn silos, MedQuAD over its own.

Held-out parts are split by unit: Dolly's distinct rows, MedQuAD's documents, of which one
has 4.7 questions. A run is tuned on `silos`, chosen on `validation`, reported on `test`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import _allocation as allocation
import numpy as np

from fedit_secure.tuning.records import Record

MEDQUAD = allocation.DATA / "medquad" / "medquad.jsonl"
Name = Literal["dolly-dirichlet", "dolly-shards", "medquad"]
NAMES: tuple[Name, ...] = ("dolly-dirichlet", "dolly-shards", "medquad")
LEAST = 40
"""Records of the smallest silo, as in Shepherd."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """A data set over silos. `most`: records a silo, at most; None for all.

    `held_out`: of each of the two held-out parts.
    """

    name: Name
    seed: int
    silos: int = 10
    most: int | None = 400
    held_out: int = 400


@dataclass(frozen=True, slots=True)
class Parts:
    """Records by silo, and two held-out parts with the unit of each record."""

    silos: dict[str, list[Record]]
    validation: list[Record]
    test: list[Record]
    test_units: list[str]


def parts_of(setup: Setup) -> Parts:
    """The same for the same setup, on any machine."""
    rng = np.random.default_rng([setup.seed, NAMES.index(setup.name)])
    rows = _medquad() if setup.name == "medquad" else _dolly()
    rest, validation, test = _held_out(rows, setup.held_out, rng)
    silos = {
        name: [_record(row) for row in _some(own, setup.most, rng)]
        for name, own in _silos(setup, rest, rng).items()
    }
    return Parts(
        silos,
        [_record(row) for row in validation],
        [_record(row) for row in test],
        [row["unit"] for row in test],
    )


def smaller(setup: Setup) -> Setup:
    """What `--quick` takes: three silos where they are drawn."""
    return replace(setup, silos=3, most=80, held_out=60)


def _silos(
    setup: Setup, rows: list[Row], rng: np.random.Generator
) -> dict[str, list[Row]]:
    if setup.name == "medquad":
        names = sorted({row["category"] for row in rows})
        return {n: [r for r in rows if r["category"] == n] for n in names}
    if setup.name == "dolly-shards":
        parts = shards(rows, setup.silos, rng)
    else:
        parts = allocation.dirichlet(rows, setup.silos, 0.5, rng, LEAST)
    return {f"silo-{number:02d}": part for number, part in enumerate(parts)}


def shards(
    rows: list[Row], silos: int, rng: np.random.Generator, each: int = 2
) -> list[list[Row]]:
    """Sorted by category and cut into `each` shards a silo, drawn without replacement."""
    order = sorted(range(len(rows)), key=lambda i: rows[i]["category"])
    cut = np.array_split(order, each * silos)
    drawn = rng.permutation(each * silos).reshape(silos, each)
    return [[rows[i] for shard in mine for i in cut[shard]] for mine in drawn]


def _held_out(
    rows: list[Row], count: int, rng: np.random.Generator
) -> tuple[list[Row], list[Row], list[Row]]:
    """(rest, validation, test) by unit, each with every category's share of `count`."""
    parts: dict[str, int] = {}
    for members in allocation.by_category(rows).values():
        units: dict[str, int] = {}
        for i in members:
            units[rows[i]["unit"]] = units.get(rows[i]["unit"], 0) + 1
        share = max(1, round(count * len(members) / len(rows)))
        names = sorted(units)
        left = [share, share]
        for at in rng.permutation(len(names)):
            part = next((p for p in (0, 1) if left[p] > 0), None)
            if part is None:
                break
            parts[names[at]] = part
            left[part] -= units[names[at]]
    chosen: tuple[list[Row], list[Row], list[Row]] = ([], [], [])
    for row in rows:
        chosen[(parts.get(row["unit"], -1) + 1) % 3].append(row)
    return chosen


def _some(rows: list[Row], most: int | None, rng: np.random.Generator) -> list[Row]:
    if most is None or len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(rng.choice(len(rows), most, replace=False))]


def _dolly() -> list[Row]:
    rows: list[Row] = allocation.read_dolly()
    return [{**row, "unit": f"{number}"} for number, row in enumerate(rows)]


def _medquad() -> list[Row]:
    seen, rows = set(), []
    with MEDQUAD.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            key = (row["instruction"], row["response"])
            if key in seen or not row["response"].strip():
                continue
            seen.add(key)
            text = " ".join(row["response"].split())
            unit = f"{row['source']}/{row['doc']}"
            rows.append(
                {
                    "instruction": row["instruction"],
                    "context": "",
                    "response": text,
                    "category": row["source"],
                    "unit": unit,
                }
            )
    return rows


def _record(row: Row) -> Record:
    return Record(row["instruction"], row["context"], row["response"], row["category"])
