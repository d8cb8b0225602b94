"""A whole federation on one machine: its files, and a run of it in one process."""

from __future__ import annotations

from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.run import Simulation, simulate

__all__ = ["LocalFederation", "Simulation", "found_federation", "simulate"]
