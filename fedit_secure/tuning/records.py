"""Instruction records from files, saved `datasets` folders and the hub. No torch.

Text files are read with the standard library: every error names its line, a text that
looks like a date stays a text, and no cached copy of a silo's records appears on disk.
"""

from __future__ import annotations

import csv
import hmac
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

from fedit_secure.errors import ConfigError
from fedit_secure.tuning.job import ColumnMap, DataSource

MAX_CHARACTERS = 1_000_000
"""Longest text of one field; anything longer is a damaged file, not a record."""

_JSON_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (".json", *_JSON_LINES, ".csv", ".parquet")

Row = tuple[str, Mapping[str, Any]]
"""Where a row is ("line 3"), and its columns."""


@dataclass(frozen=True, slots=True)
class Record:
    """One instruction record: the privacy unit "record" is exactly one of these.

    `person` is None where the data set doesn't say whom the record is about. `held_out`:
    it is for evaluation alone. That is no part of what the record says.
    """

    instruction: str
    input: str
    response: str
    category: str | None = None
    person: str | None = None
    held_out: bool = field(default=False, compare=False)


def record_bytes(record: Record) -> bytes:
    """All that `record` says, in ASCII; equal for equal records, and for no others."""
    return json.dumps(astuple(record)[:-1]).encode("ascii")


def load_records(source: DataSource) -> list[Record]:
    """Every record of `source`, in its order; held-out ones of another path come last.

    A `fraction` holds out each person, or each record that names none, by a hash of that
    person's identifier or of what the record says. So it doesn't depend on anybody else's
    records, on their order, on round, run or charter: whoever is held out once always is,
    in every silo that names the person alike, unless the fraction is lowered.

    Raises:
        ConfigError: one sentence that names the file, and the line and field where
            there is one: unknown or unreadable file, no records, a missing column, an
            empty or over-long text, a value that isn't a text; or that persons or records
            are to be tuned on and held out.
    """
    return [record for _, record in located_records(source)]


def located_records(source: DataSource) -> list[tuple[str, Record]]:
    """Every record with its place in the file ("line 3"). Raises as `load_records`."""
    found, apart = _located(source), source.held_out
    if apart is None:
        return found
    if apart.fraction is not None:
        least = int(apart.fraction * 2.0**64)
        return [(at, replace(r, held_out=_draw(r) < least)) for at, r in found]
    assert apart.path is not None
    elsewhere = _located(source.model_copy(update={"path": apart.path}))
    tuned_on = {_holder(record) for _, record in found}
    if both := {_holder(record) for _, record in elsewhere} & tuned_on:
        raise ConfigError(
            f"{len(both)} persons or records are in {apart.path}, to be held out, and in "
            f"{source.path}, to be tuned on"
        )
    return found + [(at, replace(r, held_out=True)) for at, r in elsewhere]


def _located(source: DataSource) -> list[tuple[str, Record]]:
    where, rows, columns = source.path, _some_rows(source), source.columns
    _check_columns(where, rows, columns)
    return [(line, _record(f"{where}: {line}", row, columns)) for line, row in rows]


def _holder(record: Record) -> bytes:
    """Who is held out as one: a person, or a record that names none."""
    if record.person is None:
        return b"record" + record_bytes(record)
    return b"person" + record.person.encode()


def _draw(record: Record) -> int:
    """Uniform on 64 bits, and the same for all records of a person."""
    drawn = hmac.digest(b"fedit/held-out/v1", _holder(record), "sha256")
    return int.from_bytes(drawn[:8], "big")


def load_rows(source: DataSource) -> list[Mapping[str, Any]]:
    """Every row with all its columns, whatever they are. Raises as `load_records`."""
    return [row for _, row in _some_rows(source)]


def _some_rows(source: DataSource) -> list[Row]:
    try:
        rows = list(_rows(source))
    except UnicodeDecodeError as wrong:
        raise ConfigError(
            f"{source.path}: isn't UTF-8 text: byte {wrong.start} can't be decoded"
        ) from None
    if not rows:
        raise ConfigError(f"{source.path}: has no records")
    return rows


def _rows(source: DataSource) -> Iterator[Row]:
    path = Path(source.path)
    if path.is_dir():
        return _saved_dataset(path, source.split)
    if path.is_file():
        return _file_rows(path)
    if path.suffix in _SUFFIXES or path.is_absolute() or source.path.startswith("."):
        raise ConfigError(f"{source.path}: no such file or folder")
    return _hub_dataset(source.path, source.split)


def _file_rows(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix in _JSON_LINES:
        return _json_lines(path)
    if suffix == ".json":
        return _json_file(path)
    if suffix == ".csv":
        return _csv_file(path)
    if suffix == ".parquet":
        return _parquet_file(path)
    raise ConfigError(
        f"{path}: the ending {suffix or '(none)'!r} isn't one of {', '.join(_SUFFIXES)}"
    )


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _json_row(f"{path}: line {number}", f"line {number}", line)


def _json_row(where: str, line: str, text: str) -> Row:
    try:
        row = json.loads(text, object_pairs_hook=_columns_once)
    except (ValueError, RecursionError) as wrong:
        raise ConfigError(f"{where}: isn't valid JSON: {_reason(wrong)}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: isn't a JSON object with named columns")
    return line, row


def _columns_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a column is there twice: which of the two counts?"""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the column {max(names, key=names.count)!r} is there twice")
    return row


def _json_file(path: Path) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        rows = json.loads(text, object_pairs_hook=_columns_once)
    except json.JSONDecodeError as wrong:
        if wrong.msg == "Extra data":  # one object a line, under the other ending
            yield from _json_lines(path)
            return
        raise ConfigError(
            f"{path}: line {wrong.lineno}: isn't valid JSON: {wrong.msg}"
        ) from None
    except (ValueError, RecursionError) as wrong:
        raise ConfigError(f"{path}: isn't valid JSON: {_reason(wrong)}") from None
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        if not isinstance(row, dict):
            raise ConfigError(
                f"{path}: record {number}: isn't a JSON object with named columns"
            )
        yield f"record {number}", row


def _csv_file(path: Path) -> Iterator[Row]:
    # The reader's own limit (128 KiB) would refuse texts that we allow.
    csv.field_size_limit(4 * MAX_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        line = 2
        try:
            names = reader.fieldnames or ()
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ConfigError(
                    f"{path}: line 1: the column {min(twice)!r} is there twice"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise ConfigError(
                        f"{path}: line {line}: has another number of fields than the "
                        "header"
                    )
                yield f"line {line}", row
                line = reader.line_num + 1
        except csv.Error as wrong:
            raise ConfigError(
                f"{path}: line {reader.line_num}: isn't valid CSV: {_reason(wrong)}"
            ) from None


def _quiet_datasets() -> Any:
    """The package; what it logs of a damaged file we say ourselves, in one sentence."""
    import datasets

    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    return datasets


def _parquet_file(path: Path) -> Iterator[Row]:
    datasets = _quiet_datasets()

    try:
        # Streamed: the usual way leaves a copy of the records in a cache folder.
        rows = list(
            datasets.load_dataset(
                "parquet", data_files=str(path), split="train", streaming=True
            )
        )
    # pyarrow's and datasets' errors share no type but Exception.
    except Exception as wrong:  # noqa: BLE001
        raise ConfigError(
            f"{path}: isn't a whole Parquet file: {_reason(wrong)}"
        ) from None
    return _numbered(rows)


def _saved_dataset(path: Path, split: str) -> Iterator[Row]:
    datasets = _quiet_datasets()

    try:
        loaded = datasets.load_from_disk(str(path), keep_in_memory=True)
    except (FileNotFoundError, ValueError, OSError) as wrong:
        raise ConfigError(
            f"{path}: isn't a folder that `datasets` saved: {_reason(wrong)}"
        ) from None
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ConfigError(
                f"{path}: has no split {split!r}, only {', '.join(sorted(loaded))}"
            )
        loaded = loaded[split]
    return _numbered(loaded)


def _hub_dataset(name: str, split: str) -> Iterator[Row]:
    datasets = _quiet_datasets()

    try:
        loaded = datasets.load_dataset(name, split=split)
    # The hub's client raises many unrelated types: offline, unknown, gated, damaged.
    except Exception as wrong:  # noqa: BLE001
        raise ConfigError(
            f"{name}: is neither a file here nor a data set that can be loaded from "
            f"the hub: {_reason(wrong)}"
        ) from None
    return _numbered(loaded)


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row


def _check_columns(where: str, rows: list[Row], columns: ColumnMap) -> None:
    present = {name for _, row in rows for name in row}
    usual = ColumnMap()
    wanted = [columns.instruction, columns.response]
    for name, usual_name in (
        (columns.input, usual.input),
        (columns.category, usual.category),
        (columns.person, usual.person),
    ):
        if name is not None and name != usual_name:
            wanted.append(name)
    for name in wanted:
        if name not in present:
            has = ", ".join(sorted(map(str, present)))
            raise ConfigError(f"{where}: has no column {name!r}; its columns are {has}")


def _record(where: str, row: Mapping[str, Any], columns: ColumnMap) -> Record:
    return Record(
        instruction=_text(where, row, columns.instruction),
        input=_optional_text(where, row, columns.input) or "",
        response=_text(where, row, columns.response),
        category=_optional_text(where, row, columns.category),
        person=_identifier(where, row, columns.person),
    )


def _text(where: str, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise ConfigError(f"{where}: the column {column!r} is missing")
    text = _optional_text(where, row, column)
    if text is None or not text.strip():
        raise ConfigError(f"{where}: the column {column!r} is empty")
    return text


def _optional_text(
    where: str, row: Mapping[str, Any], column: str | None
) -> str | None:
    value = None if column is None else row.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        kind = type(value).__name__
        raise ConfigError(f"{where}: the column {column!r} holds a {kind}, not a text")
    if len(value) > MAX_CHARACTERS:
        raise ConfigError(
            f"{where}: the column {column!r} holds {len(value)} characters, "
            f"more than {MAX_CHARACTERS}"
        )
    return value


def _identifier(where: str, row: Mapping[str, Any], column: str | None) -> str | None:
    value = None if column is None else row.get(column)
    # Numbers are as good as texts here; True and 1.0 are damaged identifiers.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _optional_text(where, row, column) or None


def _reason(wrong: BaseException) -> str:
    text = str(wrong).strip()
    with suppress(IndexError):
        text = text.splitlines()[0]
    return text.rstrip(".") or type(wrong).__name__
