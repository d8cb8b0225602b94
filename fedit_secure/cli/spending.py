"""How epsilon grew with the charges: computed at a few of them, for every one is a whole
accounting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedit_secure.privacy.ledger import Intent

if TYPE_CHECKING:
    from dp_accounting import DpEvent


def epsilon_of(events: Sequence[DpEvent], delta: float) -> float:
    """The published epsilon of events together; inf without privacy.

    The accountants remember what they computed: events that compose alike cost once.
    """
    from dp_accounting import ComposedDpEvent

    from fedit_secure.privacy.accountant import spent_epsilons

    return spent_epsilons(ComposedDpEvent(events), delta).published


def spending(
    intents: Sequence[Intent], delta: float, most: int
) -> list[tuple[int, float]]:
    """(n, epsilon of the first n charges), from none to all, at most `most` points."""
    events = [intent.event() for intent in intents]
    return [(n, epsilon_of(events[:n], delta)) for n in spread(0, len(events), most)]


def spread(first: int, last: int, most: int) -> list[int]:
    """At most `most` numbers from first to last, both included."""
    steps = min(last - first, most - 1)
    if steps < 1:
        return [first]
    return [first + round(i * (last - first) / steps) for i in range(steps + 1)]
