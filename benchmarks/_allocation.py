"""Dolly over silos as Shepherd does it: Dirichlet over categories, and a held-out part."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
DOLLY = DATA / "dolly" / "dolly-15k.jsonl"
PUBLIC_BASE = DATA / "models" / "public-base-2.5m"


def read_dolly(path: Path = DOLLY) -> list[dict[str, str]]:
    """Distinct rows with a response, in file order."""
    seen, rows = set(), []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            key = (row["instruction"], row["context"], row["response"])
            if key not in seen and row["response"].strip():
                seen.add(key)
                rows.append(row)
    return rows


def hold_out(
    rows: list[dict[str, str]], count: int, rng: np.random.Generator
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(rest, held-out): `count` rows, stratified over categories."""
    groups = by_category(rows)
    test: set[int] = set()
    for members in groups.values():
        share = max(1, round(count * len(members) / len(rows)))
        test.update(rng.choice(members, share, replace=False).tolist())
    return (
        [row for i, row in enumerate(rows) if i not in test],
        [rows[i] for i in sorted(test)],
    )


def dirichlet(
    rows: list[dict[str, str]],
    silos: int,
    alpha: float,
    rng: np.random.Generator,
    least: int = 256,
) -> list[list[dict[str, str]]]:
    """Per category, shares drawn from Dir(alpha); drawn again until each has `least`."""
    groups = by_category(rows)
    while True:
        parts: list[list[int]] = [[] for _ in range(silos)]
        for members in groups.values():
            shuffled = rng.permutation(members)
            shares = rng.dirichlet(np.full(silos, alpha))
            # As in Shepherd: a silo that holds its fair share already gets no more.
            full = np.array([len(part) >= len(rows) / silos for part in parts])
            shares = np.where(full, 0, shares)
            cuts = (np.cumsum(shares / shares.sum()) * len(shuffled)).astype(int)[:-1]
            for part, chunk in zip(parts, np.split(shuffled, cuts), strict=True):
                part.extend(chunk.tolist())
        if min(map(len, parts)) >= least:
            return [[rows[i] for i in part] for part in parts]


def by_category(rows: list[dict[str, str]]) -> dict[str, list[int]]:
    """Row numbers per category."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        groups[row["category"]].append(i)
    return dict(groups)


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
