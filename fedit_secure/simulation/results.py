"""What a simulation left: its last adapter, and a row for every round and silo."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import write_durably
from fedit_secure.federation.evaluation import Reading
from fedit_secure.federation.update import GridState
from fedit_secure.privacy.events import Intent, decode
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.storage.adapter_store import StateStore


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One silo after one round; round 0 is before the first.

    `units` are its records, or persons under a charter per person; None where sizes are
    secret. `in_sum`: whether its update is in that round's sum. `epsilon`: all that its
    ledger has spent by then, inf without differential privacy. `upload_bytes`: of its
    masked update; a round's other messages are some kilobytes. `nll`: of the adapter
    that all silos have then, in nats per response token, mean over the held-out records;
    None without any. `summed_nll`: of the same adapter on what the silos hold out, as the
    next round's sum tells it, and `summed_deviation` of the noise in it; None after the
    last round, whose adapter no sum is about, and where the plan evaluates nothing.
    """

    round: int
    silo: str
    units: int | None
    in_sum: bool
    epsilon: float
    upload_bytes: int
    nll: float | None
    summed_nll: float | None
    summed_deviation: float | None


@dataclass(frozen=True, eq=False)
class Simulation:
    """What a run left behind.

    `adapter`: float32 of shape (m,), ordered as `charter.adapter.layout`. `epsilons`:
    per silo, what its ledger says was spent. `folder`: the run folder, with `adapter/`
    in PEFT layout. `nlls`: see `RoundRow`, before the first round and after each.
    `readings`: by round, what its sum says of the silos' held-out records under the state
    that it began with; none where the plan evaluates nothing. `personal`: with aggregation
    "fedsa", per silo the folder of its own adapter in PEFT layout, which is the global A
    and the silo's own B; empty else.
    """

    charter: Charter
    state: GridState
    adapter: NDArray[np.float32]
    epsilons: Mapping[str, float]
    folder: Path
    nlls: Sequence[float | None]
    readings: Mapping[int, Reading]
    personal: Mapping[str, Path]

    @cached_property
    def rows(self) -> list[RoundRow]:
        """By round, then by silo. Accounting for every round takes a while, once."""
        first = bytes.fromhex(self.charter.adapter.initial_digest)
        initial = StateStore(self.folder / "states").get(first)
        run = RunFolder(self.folder, self.charter, initial)
        return _round_rows(self.charter, run, self.nlls, self.readings)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the rows' columns, without those that this plan leaves empty."""
        return tuple(n for n in COLUMNS if n not in _SUMMED or self.readings)

    def table(self) -> str:
        """The rows as a table for people, without colours."""
        from rich.console import Console
        from rich.table import Table

        shown, unit = Table(), self.charter.counted
        for name in self.columns:
            words = unit if name == "units" else name.replace("_", " ")
            shown.add_column(words, justify="left" if name == "silo" else "right")
        for row in self.rows:
            shown.add_row(*(_cell(getattr(row, name)) for name in self.columns))
        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(shown)
        return text.getvalue()

    def to_csv(self, path: str | Path) -> None:
        """The rows as CSV, after a line of their names; None is an empty field.

        Raises StorageError if the file can't be written.
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        write_durably(Path(path), text.getvalue().encode())


COLUMNS = tuple(field.name for field in fields(RoundRow))
_SUMMED = ("summed_nll", "summed_deviation")


def _round_rows(
    charter: Charter,
    folder: RunFolder,
    nlls: Sequence[float | None],
    readings: Mapping[int, Reading],
) -> list[RoundRow]:
    spent = {
        row.name: _spent_by_round(charter, folder, row.name) for row in charter.roster
    }
    upload = charter.secagg_params().payload_bytes
    rows = []
    for round, nll in enumerate(nlls):
        inside = _inside(folder, round)
        summed = readings.get(round + 1)
        for index, row in enumerate(charter.roster):
            here = index in inside
            rows.append(
                RoundRow(
                    round=round,
                    silo=row.name,
                    units=row.units,
                    in_sum=here,
                    epsilon=spent[row.name][round],
                    upload_bytes=upload if here else 0,
                    nll=nll,
                    summed_nll=None if summed is None else summed.nll,
                    summed_deviation=None if summed is None else summed.deviation,
                )
            )
    return rows


def _inside(folder: RunFolder, round: int) -> tuple[int, ...]:
    """The roster indices in the round's sum; none of a round that was skipped."""
    proof = folder.certificate(round)
    released = proof is not None and proof.confirmations[0].release_digest
    return folder.contributors(round) if released else ()


def _spent_by_round(charter: Charter, folder: RunFolder, name: str) -> list[float]:
    """Epsilon at the ledger's own delta, before the first round and after each."""
    path = folder.folder / "ledgers" / f"{name}.jsonl"
    entries = path.read_bytes().splitlines()
    population, spent = charter.row(name).population, [0.0]
    for round in range(1, folder.progress.certified + 1):
        # A ledger up to the next round's charge: what follows costs nothing.
        later = (i for i, entry in enumerate(entries) if _charged(entry) > round)
        part = entries[: next(later, len(entries))]
        spent.append(Ledger.from_entries(population, part).spent().published)
    return spent


def _charged(entry: bytes) -> int:
    """The round that an entry charges for; 0 if none."""
    event = decode(entry)
    return event.round if isinstance(event, Intent) else 0


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
