"""What the demo shows: a live table while the daemons run, and the summary after."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedit_secure.simulation.processes import ProcessEvent

if TYPE_CHECKING:
    from fedit_secure.demo.baselines import Row, Sample


# What is worth a line where no live table can be shown: (from the aggregator, phase).
_LINES = {
    (True, "tuning"): "every silo tunes on its own records",
    (False, "tuned"): "has tuned, clipped and noised its update",
    (True, "advertise"): "keys are agreed, updates masked and summed",
    (True, "certified"): "the sum is verified and the new adapter certified",
    (True, "skipped"): "no sum came out; the adapter stays as it was",
}


class Display:
    """A table of the parties on a terminal; plain lines elsewhere."""

    def __init__(self, silos: Sequence[str], rounds: int, *, enabled: bool) -> None:
        self._console = Console(stderr=not enabled)
        self._rounds = rounds
        self._now: dict[str, tuple[int, str]] = dict.fromkeys(silos, (1, "starting"))
        self._now["aggregator"] = (1, "starting")
        live = enabled and self._console.is_terminal
        self._live = (
            Live(self._table(), console=self._console, transient=True) if live else None
        )
        self._said: set[tuple[str, int, str]] = set()

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def take(self, event: ProcessEvent) -> None:
        """Show what one daemon said of itself."""
        if event.silo != event.party and event.silo:
            return  # the aggregator repeating a silo's phase
        self._now[event.party] = (event.round, event.phase)
        if self._live is not None:
            self._live.update(self._table())
            return
        text = _LINES.get((event.party == "aggregator", event.phase))
        line = (event.party, event.round, event.phase)
        if text is not None and line not in self._said:
            self._said.add(line)
            who = "" if event.party == "aggregator" else f"{event.party} "
            self._console.print(f"  round {event.round}: {who}{text}", soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in ("party", "round", "phase"):
            table.add_column(heading)
        for party, (round, phase) in self._now.items():
            where = f"{min(round, self._rounds)} of {self._rounds}"
            table.add_row(Text(party), where, Text(phase))
        return table


def print_summary(
    facts: Mapping[str, Any],
    rows: Sequence[Row],
    samples: Sequence[Sample],
    *,
    as_json: bool,
) -> None:
    """The table, the budgets, two answers, and where everything lies."""
    if as_json:
        whole = {
            **facts,
            "table": [asdict(row) for row in rows],
            "samples": [asdict(sample) for sample in samples],
        }
        sys.stdout.write(json.dumps(whole, default=str) + "\n")
        return
    console = Console(highlight=False)
    table = Table(title="Held-out records of all silos", title_justify="left")
    table.add_column("adapter")
    for heading in ("differential privacy", "NLL (lower is better)", "ROUGE-L"):
        table.add_column(heading, justify="right")
    for row in rows:
        style = "bold" if row.name == "federated" else ""
        private = "yes" if row.private else "no"
        cells = (row.name, private, f"{row.nll:.3f}", f"{row.rouge_l:.3f}")
        table.add_row(*cells, style=style)
    console.print(table)
    budgets = Table(
        title="Privacy budget, from each silo's ledger", title_justify="left"
    )
    for heading in ("silo", "records", "ε per record", "ε per patient", "cap", "δ"):
        budgets.add_column(heading, justify="left" if heading == "silo" else "right")
    for name, budget in facts["budgets"].items():
        most = budget["most_records_of_a_patient"]
        person = budget["epsilon_per_patient"]
        budgets.add_row(
            name,
            f"{budget['records']}",
            f"{budget['epsilon_per_record']:.2f}",
            f"{person:.1f} (≤ {most} records)" if person is not None else "-",
            f"{budget['cap']:g}",
            f"{budget['delta']:g}",
        )
    console.print(budgets)
    for sample in samples:
        answers = Table.grid(padding=(0, 2))  # a long text is wrapped within its column
        answers.add_row("prompt", Text(_line(sample.prompt)))
        answers.add_row("reference", Text(_line(sample.reference)))
        answers.add_row("before", Text(_line(sample.before)))
        answers.add_row("after", Text(_line(sample.after)), style="bold")
        console.print("", answers)
    console.print(f"\nadapter    {facts['adapter']}", soft_wrap=True)
    console.print(f"charter    {facts['charter']}", soft_wrap=True)
    console.print(f"ledgers    {facts['ledgers']}", soft_wrap=True)
    console.print(f"audit      {facts['audit']}: {facts['bundle']}", soft_wrap=True)
    if facts["report"] is not None:
        console.print(f"report     {facts['report']}", soft_wrap=True)
    console.print(f"finished in {facts['seconds']:.0f} s", soft_wrap=True)


def _line(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split()) or "(nothing)"
