from __future__ import annotations

import math
from dataclasses import replace

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from watch.sample_snapshots import a_silo, an_aggregator, cap

from fedit_secure.watch.metrics import Metrics
from fedit_secure.watch.snapshot import Snapshot


def exposed(snapshot: Snapshot, *phases: tuple[str, float]) -> dict[str, float]:
    """Every sample by name and labels, as Prometheus would read it."""
    metrics = Metrics()
    metrics.follow(lambda: snapshot)
    for phase, seconds in phases:
        metrics.phase_ended(phase, seconds)
    text, kind = metrics.exposition("text/plain")
    assert kind.startswith("text/plain")
    return {
        sample.name
        + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_an_aggregator_tells_what_it_knows_and_no_epsilon() -> None:
    found = exposed(an_aggregator())
    assert found["fedit_round"] == 3
    assert found["fedit_rounds"] == 5
    assert found["fedit_rounds_certified"] == 2
    assert found["fedit_silos"] == 3
    assert found["fedit_silos_minimum"] == 2
    assert found["fedit_silos_connected"] == 2
    assert found["fedit_silos_ready"] == 1
    assert found["fedit_silo_connected silo=clinic-b"] == 1
    assert found["fedit_silo_connected silo=university-hospital-c"] == 0
    assert found["fedit_attempts_voided_total"] == 1
    assert found["fedit_bytes_total direction=sent"] == 45_678_901
    assert found["fedit_silo_bytes_total direction=received silo=clinic-a"] > 0
    assert found["fedit_ledger_entries silo=clinic-b"] == 7
    assert found["fedit_certificate_expiry_seconds kind=issuer party=clinic-a"] == (
        5 * 86400 + 60
    )
    assert not [name for name in found if "epsilon" in name]


def test_a_silo_tells_what_is_spent_under_each_cap() -> None:
    silo = a_silo()
    more = (*silo.caps, cap("no cap", None, None))
    found = exposed(replace(silo, caps=more, connected=False))
    spent, limit = "fedit_epsilon_spent", "fedit_epsilon_cap"
    assert found[f"{spent} covers=in all delta=1e-06"] == 3.14159
    assert found[f"{limit} covers=per run delta=1e-06"] == 4.0
    assert found[f"{spent} covers=no cap delta=1e-06"] == math.inf
    assert f"{limit} covers=no cap delta=1e-06" not in found
    assert found["fedit_aggregator_connected"] == 0
    assert found["fedit_charges"] == 3
    assert found["fedit_charges_planned"] == 6


def test_phases_are_a_histogram() -> None:
    found = exposed(a_silo(), ("mask", 2.0), ("mask", 4.0), ("tuning", 700.0))
    assert found["fedit_phase_seconds_count phase=mask"] == 2
    assert found["fedit_phase_seconds_sum phase=mask"] == 6
    assert found["fedit_phase_seconds_bucket le=1.0 phase=mask"] == 0
    assert found["fedit_phase_seconds_bucket le=5.0 phase=mask"] == 2
    assert found["fedit_phase_seconds_bucket le=900.0 phase=tuning"] == 1


def test_a_clock_that_was_set_back_makes_no_negative_length() -> None:
    assert exposed(a_silo(), ("mask", -5.0))["fedit_phase_seconds_sum phase=mask"] == 0


def test_nothing_is_in_the_registry_of_the_process() -> None:
    before = {family.name for family in REGISTRY.collect()}
    exposed(an_aggregator(), ("mask", 1.0))
    assert {family.name for family in REGISTRY.collect()} == before
    assert not any(name.startswith("fedit") for name in before)
    # And nothing of the process in ours: that is another exporter's business.
    assert all(name.startswith("fedit_") for name in exposed(an_aggregator()))


def test_a_scraper_may_ask_for_open_metrics() -> None:
    metrics = Metrics()
    metrics.follow(a_silo)
    text, kind = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
