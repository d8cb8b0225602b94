"""Federated instruction tuning across organisations, private and securely aggregated."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`simulate` and `Simulation` load on first use: the aggregator never needs torch."""
    if name in ("simulate", "Simulation"):
        from importlib import import_module

        # By name, so that type checking the trusted core doesn't read torch either.
        place = "run" if name == "simulate" else "results"
        return getattr(import_module(f"fedit_secure.simulation.{place}"), name)
    raise AttributeError(f"module 'fedit_secure' has no attribute {name!r}")
