"""How far a long command is: a bar on a terminal, a line per step elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class Steps:
    """A context whose calls tell of progress on stderr: (what, how many are done, of how
    many)."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                # Not as markup: a name may hold brackets.
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self._bar.start()
        return self

    def __call__(self, what: str, done: int, of: int) -> None:
        """So many of `of` are done."""
        new = what not in self._tasks
        if self._bar is not None:
            if new:
                self._tasks[what] = self._bar.add_task(what, total=of)
            self._bar.update(self._tasks[what], completed=done)
            return
        self._tasks[what] = None
        if done == of:
            sys.stderr.write(f"{what}: {of} done\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
