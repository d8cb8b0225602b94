"""`fedit run watch`: a daemon's status file as a live table, or as a line a change."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedit_secure.cli.output import note
from fedit_secure.errors import ConfigError
from fedit_secure.watch import view
from fedit_secure.watch.snapshot import (
    AggregatorSnapshot,
    SiloSnapshot,
    Snapshot,
    seconds_left,
    to_json,
)
from fedit_secure.watch.status_file import is_alive, read_status, status_path

if TYPE_CHECKING:
    from rich.console import Group

_LOOK_SECONDS = 0.5


def watch_state(state: Path, *, once: bool, as_json: bool) -> None:
    """Show the daemon of a state folder until it has ended or fallen silent.

    Raises ConfigError where none has run yet, StorageError for a damaged file.
    """
    if read_status(state) is None:
        raise ConfigError(
            f"there is no {status_path(state)}: no daemon has run here yet"
        )
    snapshots = _snapshots(state, once=once)
    if as_json:
        _print_each(snapshots, lambda now: to_json(now).decode())
    elif not sys.stdout.isatty():
        _print_each(snapshots, line)
    else:
        _show_live(snapshots)


def line(snapshot: Snapshot) -> str:
    """How things stand on one line, without what changes by itself."""
    if snapshot.daemon.state != "running":
        headline = view.headline(snapshot)
        return f"{headline.text} {headline.more}".strip()
    text = view.doing(snapshot)
    if isinstance(snapshot, AggregatorSnapshot):
        silos = ", ".join(f"{s.name} {view.phase(s.phase)}" for s in snapshot.silos)
        return f"{text} {snapshot.ready} of {len(snapshot.silos)} ready: {silos}"
    link = "connected" if snapshot.connected else "not connected"
    return f"{text} {link}; epsilon left {_left(snapshot)}"


def _snapshots(state: Path, *, once: bool) -> Iterator[Snapshot]:
    """The status, whenever it is another or time has passed; ends with the daemon."""
    while True:
        snapshot = read_status(state)
        assert snapshot is not None  # a status file is replaced, never taken away
        yield snapshot
        if once or snapshot.daemon.state != "running":
            return
        if not is_alive(snapshot, time.time()):
            note("the daemon has fallen silent; this is how it stood last")
            return
        time.sleep(_LOOK_SECONDS)


def _print_each(snapshots: Iterator[Snapshot], text: Callable[[Snapshot], str]) -> None:
    before = None
    for snapshot in snapshots:
        # When it was written is no news.
        bare = replace(snapshot, daemon=replace(snapshot.daemon, at=0.0))
        if text(bare) != before:
            before = text(bare)
            sys.stdout.write(text(snapshot) + "\n")
            sys.stdout.flush()


def _show_live(snapshots: Iterator[Snapshot]) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        for snapshot in snapshots:
            live.update(table(snapshot), refresh=True)


def table(snapshot: Snapshot) -> Group:
    """The live display: a headline, figures, and a row a silo."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    headline = view.headline(snapshot)
    style = {"good": "bold green", "open": "bold yellow", "bad": "bold red"}
    facts = Table.grid(padding=(0, 2))
    run, left = snapshot.run, seconds_left(snapshot)
    facts.add_row("run", Text(f"{run.name} of {run.federation}, epoch {run.epoch}"))
    bar = ProgressBar(run.rounds, run.certified, width=30)
    facts.add_row("rounds closed", f"{run.certified} of {run.rounds}", bar)
    facts.add_row("to go", "-" if left is None else f"about {view.span(left)}")
    if isinstance(snapshot, SiloSnapshot):
        facts.add_row("epsilon left", _left(snapshot))
    if view.is_evaluated(snapshot):
        facts.add_row("held-out NLL", _figures(snapshot))
    rows = Table(box=None, pad_edge=False)
    for heading in ("silo", "connected", "phase", "for", "progress"):
        rows.add_column(heading)
    for row in _rows(snapshot):
        rows.add_row(*(Text(cell) for cell in row))
    more = [Text(headline.more, style="dim")] if headline.more else []
    first = Text(headline.text, style=style[headline.kind])
    return Group(first, *more, Text(), facts, Text(), rows)


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, ...]]:
    at = snapshot.daemon.at
    if isinstance(snapshot, AggregatorSnapshot):
        for silo in snapshot.silos:
            yield (
                silo.name,
                "yes" if silo.connected else "no",
                view.phase(silo.phase),
                view.span(at - silo.since),
                "ready" if silo.ready else "",
            )
        return
    now = snapshot.now
    yield (
        snapshot.daemon.name,
        "yes" if snapshot.connected else "no",
        view.phase(now.phase),
        view.span(at - now.since),
        f"step {now.step} of {now.steps}" if now.steps else "",
    )


def _figures(snapshot: Snapshot) -> str:
    """Of the last round that has them."""
    ended = [r for r in snapshot.rounds if r.nll is not None or r.own_nll is not None]
    own = "" if ended[-1].own_nll is None else f", own {ended[-1].own_nll:.3f}"
    return f"{view.nll(ended[-1])} before round {ended[-1].round}{own}"


def _left(snapshot: SiloSnapshot) -> str:
    left = view.epsilon_left(snapshot)
    return "-" if left is None else f"{left:.4g}"
