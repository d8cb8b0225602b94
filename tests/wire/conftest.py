from __future__ import annotations

import pytest
from wire_samples import Authority, Parties


@pytest.fixture(scope="session")
def parties() -> Parties:
    """An aggregator and the four silos of its roster."""
    return Parties(
        Authority("aggregator", "hub"),
        [Authority("silo", name) for name in ("north", "east", "south", "west")],
    )
