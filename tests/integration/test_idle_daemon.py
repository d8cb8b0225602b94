"""The benchmark of waiting daemons, as a test: the figures that an operator is promised."""

from __future__ import annotations

import asyncio

import daemons
import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_idle_silo_daemon_is_small_and_quiet() -> None:
    found = asyncio.run(daemons.idle(60.0))
    for kind in ("idle", "paged"):  # the second one has its page on
        assert found[f"{kind}_maps_torch"] is False
        assert found[f"{kind}_rss_mib"] < daemons.MOST_MIB
        assert found[f"{kind}_core_share"] < daemons.MOST_SHARE


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_aggregator_holds_a_hundred_silos() -> None:
    found = daemons.held(100)
    assert found["connected_silos"] == 100
