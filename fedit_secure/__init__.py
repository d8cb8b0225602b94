"""Federated instruction tuning across organisations, private and securely aggregated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedit_secure.simulation import Simulation, simulate

__version__ = "0.1.0"
__all__ = ["Simulation", "__version__", "simulate"]


def __getattr__(name: str) -> Any:
    """The Python API is loaded on first use: the aggregator must not import torch."""
    if name in ("simulate", "Simulation"):
        from fedit_secure import simulation

        return getattr(simulation, name)
    raise AttributeError(f"module 'fedit_secure' has no attribute {name!r}")
