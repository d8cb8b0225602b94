"""What a daemon's log lines are about: run, round, silo and phase, wherever they come from.

A daemon calls `begin` in its first task. Every task and worker thread that it starts from
there inherits them, so no line has to name them itself. Never a value derived from data.
"""

from __future__ import annotations

from contextvars import ContextVar

Field = str | int

NAMES = ("run", "round", "silo", "phase")

# One dictionary a daemon: what changes is seen by tasks that began before.
_daemon: ContextVar[dict[str, Field] | None] = ContextVar("_daemon", default=None)
_silo: ContextVar[str | None] = ContextVar("_silo", default=None)


def begin(**fields: Field) -> None:
    """From here on, this task and all that it starts speak of these."""
    _daemon.set(dict(fields))


def change(**fields: Field) -> None:
    """The daemon has moved on. Without `begin`, nothing."""
    fields_now = _daemon.get()
    if fields_now is not None:
        fields_now.update(fields)


def about_silo(name: str) -> None:
    """This task, and all that it starts, serves one silo."""
    _silo.set(name)


def current() -> dict[str, Field]:
    """What is known here and now."""
    found = dict(_daemon.get() or {})
    if (silo := _silo.get()) is not None:
        found["silo"] = silo
    return found
