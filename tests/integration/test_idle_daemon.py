"""The benchmark of waiting daemons, as a test: the figures that an operator is promised."""

from __future__ import annotations

import asyncio

import daemons
import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_idle_silo_daemon_is_small_and_quiet() -> None:
    found = asyncio.run(daemons.idle(60.0))
    assert found["idle_maps_torch"] is False
    assert found["idle_rss_mib"] < daemons.MOST_MIB
    assert found["idle_core_share"] < daemons.MOST_SHARE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_aggregator_holds_a_hundred_silos() -> None:
    found = daemons.held(100)
    assert found["connected_silos"] == 100
