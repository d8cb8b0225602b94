"""One data set over several silos, for simulations and benchmarks. No torch.

Schemes as in Shepherd (Zhang et al. 2023, arXiv 2305.05644): `dirichlet` is its
`diff_quantity=1` after Hsu et al. (arXiv 1909.06335), `shards` its `diff_quantity=0` after
McMahan et al. (arXiv 1602.05629). Every row goes to exactly one silo; the seed decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fedit_secure.errors import ConfigError

SHARDS = 2
"""Shards of a silo under `shards`: so many labels it holds, or a few more."""
_TRIES = 1000

Parts = list[list[int]]
"""Row numbers of each silo, ascending."""


def iid(rows: int, silos: int, rng: np.random.Generator) -> Parts:
    """Equal parts at random; the first are one larger where it doesn't come out even."""
    return _sorted(np.array_split(rng.permutation(rows), silos))


def dirichlet(
    labels: Sequence[str],
    silos: int,
    alpha: float,
    rng: np.random.Generator,
    least: int = 1,
) -> Parts:
    """Of each label, shares drawn from Dir(alpha): the smaller alpha, the less alike.

    A silo that holds its fair share of all rows already gets no more of the next label.
    Drawn again until each silo has `least` rows; ConfigError where that doesn't happen.
    """
    groups = by_label(labels)
    for _ in range(_TRIES):
        parts: Parts = [[] for _ in range(silos)]
        for members in groups.values():
            full = [len(part) >= len(labels) / silos for part in parts]
            shares = np.where(full, 0, rng.dirichlet(np.full(silos, alpha)))
            if not shares.sum():
                break  # at so small an alpha, all of it went to a silo that is full
            ends = (np.cumsum(shares / shares.sum()) * len(members)).astype(int)[:-1]
            chunks = np.split(rng.permutation(members), ends)
            for part, chunk in zip(parts, chunks, strict=True):
                part.extend(chunk.tolist())
        else:
            if min(map(len, parts)) >= least:
                return _sorted(parts)
    raise ConfigError(
        f"in {_TRIES} draws at alpha {alpha:g} some of {silos} silos had fewer than {least} "
        f"of {len(labels)} rows: fewer silos, a larger alpha or a smaller least"
    )


def shards(labels: Sequence[str], silos: int, rng: np.random.Generator) -> Parts:
    """Rows in the order of their labels, cut into SHARDS pieces a silo, dealt at random."""
    shuffled = rng.permutation(len(labels))
    ordered = sorted(shuffled.tolist(), key=lambda row: labels[row])
    pieces = np.array_split(np.array(ordered, dtype=np.int64), silos * SHARDS)
    dealt = rng.permutation(len(pieces)).reshape(silos, SHARDS)
    return _sorted([np.concatenate([pieces[i] for i in own]) for own in dealt])


def whole_labels(labels: Sequence[str], silos: int) -> Parts:
    """Each label whole to one silo, the largest first to whoever has least.

    Raises ConfigError where there are fewer labels than silos.
    """
    groups = sorted(by_label(labels).values(), key=len, reverse=True)
    if len(groups) < silos:
        raise ConfigError(f"{len(groups)} categories can't fill {silos} silos")
    parts: Parts = [[] for _ in range(silos)]
    for members in groups:
        min(parts, key=len).extend(members)
    return _sorted(parts)


def held_out(labels: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """About `count` rows, of each label in proportion and at least one, ascending."""
    found: list[int] = []
    for members in by_label(labels).values():
        share = max(1, round(count * len(members) / len(labels)))
        found += rng.choice(members, share, replace=False).tolist()
    return sorted(found)


def by_label(labels: Sequence[str]) -> dict[str, list[int]]:
    """Row numbers of each label, in the order in which labels first occur."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        groups[label].append(row)
    return dict(groups)


def _sorted(parts: Sequence[Sequence[int] | np.ndarray]) -> Parts:
    return [sorted(int(row) for row in part) for part in parts]
