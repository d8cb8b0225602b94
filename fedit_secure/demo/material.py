"""What the demo tunes on: the synthetic hospitals, or a user's own records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fedit_secure.demo.hospital import write_silos
from fedit_secure.errors import ConfigError
from fedit_secure.tuning.job import ColumnMap, DataSource
from fedit_secure.tuning.records import Record, load_records

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Material:
    """Where each silo's records are and how many, the pooled held-out records, and how
    many records of one person a silo has at most (0 where the data doesn't say)."""

    silos: Mapping[str, DataSource]
    held_out: Sequence[Record]
    records: Mapping[str, int]
    most_per_person: Mapping[str, int]


def synthetic_material(folder: Path, silos: int, seed: int) -> Material:
    """The packaged generator's hospitals. Raises ConfigError beyond its four."""
    files = write_silos(folder, seed)
    if silos > len(files.silos):
        raise ConfigError(
            f"the synthetic data has {len(files.silos)} hospitals; --silos {silos} needs "
            "--data of your own"
        )
    columns = ColumnMap(person="patient_id")
    sources = {
        name: DataSource(path=str(path), columns=columns)
        for name, path in list(files.silos.items())[:silos]
    }
    held_out = load_records(DataSource(path=str(files.test), columns=columns))
    return _material(sources, held_out)


def own_material(data: Path, folder: Path, silos: int, seed: int) -> Material:
    """A user's records: a folder with one file per silo, or one file dealt out evenly.

    A tenth is held out, over all silos. Raises ConfigError for records that can't be read.
    """
    if data.is_dir():
        parts = {
            p.stem.lower(): load_records(_source(p)) for p in sorted(data.iterdir())
        }
    else:
        records = load_records(_source(data))
        dealt = np.random.default_rng(seed).permutation(len(records))
        parts = {
            f"silo-{i + 1}": [records[j] for j in dealt[i::silos]] for i in range(silos)
        }
    if len(parts) < 3:
        raise ConfigError(f"{data} makes {len(parts)} silos; a demo needs at least 3")
    folder.mkdir(parents=True, exist_ok=True)
    held_out: list[Record] = []
    sources = {}
    for number, (name, part) in enumerate(parts.items()):
        order = np.random.default_rng([seed, number]).permutation(len(part))
        cut = int(len(part) * HELD_OUT_SHARE)
        held_out += [part[i] for i in order[:cut]]
        path = folder / f"{name}.jsonl"
        lines = (json.dumps(asdict(part[i])) for i in order[cut:])
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sources[name] = DataSource(path=str(path))
    if not held_out:
        raise ConfigError(f"{data} has too few records to hold a tenth of them out")
    return _material(sources, held_out)


def _source(path: Path) -> DataSource:
    return DataSource(path=str(path))


def _material(
    sources: Mapping[str, DataSource], held_out: Sequence[Record]
) -> Material:
    counts, most = {}, {}
    for name, source in sources.items():
        records = load_records(source)
        people = Counter(r.person for r in records if r.person is not None)
        counts[name], most[name] = len(records), max(people.values(), default=0)
    return Material(sources, held_out, counts, most)
