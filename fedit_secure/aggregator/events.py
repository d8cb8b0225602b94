"""What an aggregator tells a display: who is where, never a value derived from data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedit_secure.secagg import states as s


@dataclass(frozen=True, slots=True)
class Event:
    """Something to show: `silo` is empty for the aggregator's own phases."""

    round: int
    silo: str
    phase: str


class Teller:
    """Passes on what is news: a party's round and phase, once."""

    def __init__(self, on_event: Callable[[Event], None], now: int) -> None:
        self._on_event = on_event
        self._last: dict[str, Event] = {}
        self.now = now

    def tell(self, silo: str, phase: str) -> None:
        """A silo, or (empty) the aggregator itself, is in this phase of round `now`."""
        event = Event(self.now, silo, phase)
        if self._last.get(silo) != event:
            self._last[silo] = event
            self._on_event(event)


PHASES: dict[type, str] = {
    s.Gathering: "advertise",
    s.Sharing: "share",
    s.Masking: "mask",
    s.Agreeing: "agree",
    s.Revealing: "reveal",
    s.Published: "confirm",
    s.Voiding: "void",
}


def phase_of(state: s.AggregatorState) -> str | None:
    """What a state is called; None for one that is told of elsewhere. An attempt that ended
    is voided where its updates may go on, and else failed."""
    if isinstance(state, s.Ended):
        return "voided" if state.free else "failed"
    return PHASES.get(type(state))
