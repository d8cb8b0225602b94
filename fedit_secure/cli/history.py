"""`fedit budget history`: everything that bears on a budget, in the ledger's order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fedit_secure.cli.caps_table import figure
from fedit_secure.cli.spending import spending
from fedit_secure.federation.admission import Account
from fedit_secure.privacy.events import (
    Aborted,
    CapChanged,
    Committed,
    DataVersion,
    Event,
    Intent,
    KeyRotated,
    Opened,
    Released,
)

MOST_POINTS = 50
"""At so many charges at most epsilon is computed, the first and the last among them."""


def history_table(account: Account) -> list[dict[str, Any]]:
    """One row for the opening, each charge, and each change of cap, records and key.

    `no_later_than`: the day, in UTC, that the silo's own clock showed at a charge.
    `epsilon`: of all charges up to this one at the ledger's delta, where it was computed.
    `cap`: the ledger's own after the entry, None where it has none. `what` became of a
    charge, or was changed and why.
    """
    ledger = account.ledger
    if ledger is None:
        return []
    charges = ledger.intents()
    days = iter(account.times.observed(0, ledger).charges)
    # The first point is no charge at all.
    epsilons = dict(spending(charges, ledger.delta, MOST_POINTS + 1))
    told, rows, charged, cap = _what(ledger.events), [], 0, None
    for number, event in enumerate(ledger.events, 1):
        if isinstance(event, Opened | CapChanged):
            cap = event.cap_epsilon
        if number not in told:
            continue
        row: dict[str, Any] = {
            "entry": number,
            "event": event.kind,
            "run": None,
            "round": None,
            "what": told[number],
            "no_later_than": None,
            "epsilon": None,
            "cap": cap,
        }
        if isinstance(event, Intent):
            charged += 1
            day = datetime.fromtimestamp(next(days), UTC).date()
            row |= {"run": event.run, "round": event.round, "no_later_than": str(day)}
            row["epsilon"] = figure(epsilons.get(charged))
        rows.append(row)
    return rows


def _what(events: Sequence[Event]) -> dict[int, str]:
    """By number of entry, what is said of the entries that bear on the budget."""
    told: dict[int, str] = {}
    last: dict[tuple[str, int], int] = {}  # the round's last charge
    silo = ""
    for number, event in enumerate(events, 1):
        match event:
            case Opened():
                silo = event.silo
                told[number] = f"per {event.unit}, at delta {event.delta:g}"
            case Intent():
                if (before := last.get((event.charter, event.round))) is not None:
                    told[before] += ", then tuned again"
                last[event.charter, event.round] = number
                told[number] = "begun"
            case Committed():
                told[last[event.charter, event.round]] = "tuned"
            case Released():
                told[last[event.charter, event.round]] = _released(event, silo)
            case Aborted():
                told[last[event.charter, event.round]] = f"no sum ({event.reason})"
            case CapChanged():
                told[number] = event.reason
            case DataVersion():
                told[number] = "the records changed"
            case KeyRotated():
                told[number] = "the silo's key changed"
    return told


def _released(event: Released, silo: str) -> str:
    if event.contributors is not None and silo not in event.contributors:
        return "released without it"
    return "released"
