"""Epsilon against every cap, as rows to print."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedit_secure.privacy.caps import Cap

UNBOUNDED = "unbounded"


def caps_table(caps: Iterable[Cap]) -> list[dict[str, Any]]:
    """One row a cap; what a run does to it, where one is asked for."""
    return [_row(cap) for cap in caps]


def figure(epsilon: float | None) -> float | str | None:
    """An epsilon as it is printed: there is none where records had no privacy."""
    return UNBOUNDED if epsilon == float("inf") else epsilon


def _row(cap: Cap) -> dict[str, Any]:
    limited = cap.limit < float("inf")
    row: dict[str, Any] = {
        "covers": cap.covers,
        "delta": cap.delta,
        "cap": cap.limit if limited else None,
        "spent": figure(cap.spent),
        "left": cap.left if limited else None,
    }
    if cap.after is not None:
        row |= {
            "this_run": figure(cap.run),
            "afterwards": figure(cap.after),
            "counted_by": cap.counted_by,
            "fits": cap.fits,
        }
    return row
