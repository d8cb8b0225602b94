"""`fedit data split`: a data set over silo folders, and who holds what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import make_folder, write_durably
from fedit_secure.tuning import allocation
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_rows

RECORDS, HELD_OUT = "records.jsonl", "held-out.jsonl"
_MOST_LABELS = 10  # columns of the table; the rest are summed


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by silo, in the order of the file, and those that no silo has.

    `labels` are of the column that the rows were told apart by.
    """

    silos: Mapping[str, Sequence[int]]
    held_out: Sequence[int]
    rows: Sequence[Mapping[str, Any]]
    labels: Sequence[str]


def split_rows(
    path: Path,
    scheme: str,
    silos: int,
    *,
    column: str,
    alpha: float,
    least: int,
    hold_out: int,
    seed: int,
) -> Split:
    """Allocates the rows of a file. Raises ConfigError for what can't be allocated."""
    rows = [dict(row) for row in load_rows(DataSource(path=str(path)))]
    labels = _labels(path, rows, column, wanted=scheme != "iid")
    rng = np.random.default_rng(seed)
    kept_out = allocation.held_out(labels, hold_out, rng) if hold_out else []
    left = sorted(set(range(len(rows))) - set(kept_out))
    own = [labels[row] for row in left]
    if scheme == "natural":
        named = _by_nature(own, least)
    else:
        if len(left) < silos:
            raise ConfigError(
                f"{path} has {len(left)} rows to share among {silos} silos"
            )
        parts = _parts(scheme, own, silos, alpha, least, rng)
        named = {f"silo-{number}": part for number, part in enumerate(parts, 1)}
    chosen = {name: [left[row] for row in part] for name, part in named.items()}
    return Split(chosen, kept_out, rows, labels)


def write_split(split: Split, folder: Path) -> None:
    """One folder a silo, and the held-out rows beside them.

    Raises ConfigError, before anything is written, if a file of them is there already.
    """
    files = {folder / name / RECORDS: rows for name, rows in split.silos.items()}
    if split.held_out:
        files[folder / HELD_OUT] = split.held_out
    taken = [path for path in files if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} exists already, and is not overwritten")
    for path, rows in files.items():
        make_folder(path.parent)
        lines = (json.dumps(split.rows[row], default=str) + "\n" for row in rows)
        write_durably(path, "".join(lines).encode(), replace=False)


def counts(split: Split) -> dict[str, Counter[str]]:
    """Of each silo's rows, how many have which label."""
    return {
        name: Counter(split.labels[row] for row in rows)
        for name, rows in split.silos.items()
    }


def most_common(split: Split) -> list[str]:
    """The labels that are worth a column, the most frequent first."""
    whole = Counter(split.labels)
    return [label for label, _ in whole.most_common(_MOST_LABELS)]


def split_table(split: Split) -> list[dict[str, Any]]:
    """One row a silo: its rows, and of which labels."""
    shown = most_common(split)
    others = len(set(split.labels)) > len(shown)
    table = []
    for name, found in counts(split).items():
        row: dict[str, Any] = {"silo": name, "rows": found.total()}
        row |= {label: found[label] for label in shown}
        if others:
            row["(others)"] = found.total() - sum(found[label] for label in shown)
        table.append(row)
    return table


def _labels(
    path: Path, rows: Sequence[Mapping[str, Any]], column: str, *, wanted: bool
) -> list[str]:
    if wanted and not any(column in row for row in rows):
        has = ", ".join(sorted({str(name) for row in rows for name in row}))
        raise ConfigError(
            f"{path}: has no column {column!r}; its columns are {has}: give --column, or "
            "--scheme iid, which needs none"
        )
    return [str(row.get(column)) if column in row else "(none)" for row in rows]


def _parts(
    scheme: str,
    labels: Sequence[str],
    silos: int,
    alpha: float,
    least: int,
    rng: np.random.Generator,
) -> allocation.Parts:
    if scheme == "dirichlet":
        return allocation.dirichlet(labels, silos, alpha, rng, least)
    if scheme == "shards":
        parts = allocation.shards(labels, silos, rng)
    elif scheme == "category":
        parts = allocation.whole_labels(labels, silos)
    else:
        parts = allocation.iid(len(labels), silos, rng)
    smallest = min(map(len, parts))
    if smallest < least:
        raise ConfigError(f"a silo would have {smallest} rows, fewer than {least}")
    return parts


def _by_nature(labels: Sequence[str], least: int) -> dict[str, list[int]]:
    """One silo for each value that enough rows have; the others' rows stay out."""
    named: dict[str, list[int]] = {}
    for label, rows in sorted(allocation.by_label(labels).items()):
        if len(rows) < least:
            continue
        name = _name(label)
        if name in named:
            raise ConfigError(f"two values of the column would both be silo {name!r}")
        named[name] = rows
    if len(named) < 2:
        raise ConfigError(
            f"{len(named)} values of the column have {least} rows or more"
        )
    return named


def _name(label: str) -> str:
    """A silo's name from a value: lower-case letters, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in label.lower())
    return "-".join(filter(None, plain.split("-")))[:63].strip("-") or "silo"
