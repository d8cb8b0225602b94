"""A snapshot as Prometheus metrics, in a registry of its own.

Names and labels are an interface: docs/operator.md lists them, and `deploy/` alerts on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fedit_secure.watch.snapshot import AggregatorSnapshot, Head, SiloSnapshot, Snapshot

_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)


class Metrics:
    """What one daemon exposes."""

    def __init__(self) -> None:
        # Its own registry: no metric of the Python process, and no other library's.
        self._registry = CollectorRegistry()
        self._phases = Histogram(
            "fedit_phase_seconds",
            "How long phases took, by phase.",
            ["phase"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def phase_ended(self, phase: str, seconds: float) -> None:
        """A phase has ended, after so many seconds."""
        self._phases.labels(phase).observe(max(0.0, seconds))

    def follow(self, snapshot: Callable[[], Snapshot]) -> None:
        """From now on, tell what this says when asked."""
        self._registry.register(_Standing(snapshot))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, in the format that `accept` asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Standing(Collector):
    """Reads a snapshot at every scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: which there are depends on the role."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics of the present snapshot."""
        now = self._snapshot()
        yield from _of_both(now)
        if isinstance(now, AggregatorSnapshot):
            yield from _of_aggregator(now)
        else:
            yield from _of_silo(now)


def _of_both(now: Snapshot) -> Iterator[Metric]:
    run = now.run
    facts = {
        "role": now.role,
        "name": now.daemon.name,
        "federation": run.federation,
        "run": run.name,
        "epoch": str(run.epoch),
        "charter": run.charter[:16],
        "version": now.daemon.version,
    }
    yield InfoMetricFamily(
        "fedit_run", "Whose daemon this is, and of which run.", facts
    )
    yield _gauge("fedit_round", "The round under way.", now.now.round)
    yield _gauge("fedit_rounds", "The rounds of the run.", run.rounds)
    yield _gauge("fedit_rounds_certified", "The rounds that are closed.", run.certified)
    yield _gauge(
        "fedit_phase_started_timestamp_seconds",
        "Since when the present phase lasts.",
        now.now.since,
        {"phase": now.now.phase},
    )
    sent = {("sent",): now.traffic.sent, ("received",): now.traffic.received}
    yield _counter(
        "fedit_bytes", "Bytes of messages since the start.", ["direction"], sent
    )
    expiry = GaugeMetricFamily(
        "fedit_certificate_expiry_seconds",
        "Seconds until a certificate ends; negative once it has.",
        labels=["party", "kind"],
    )
    for certificate in now.certificates:
        where = (certificate.party, certificate.kind)
        expiry.add_metric(where, certificate.ends - now.daemon.at)
    yield expiry
    entries = GaugeMetricFamily(
        "fedit_ledger_entries",
        "Entries of a privacy ledger, as far as it is known here.",
        labels=["silo"],
    )
    for head in _heads(now):
        entries.add_metric((head.silo,), head.entries)
    yield entries


def _of_aggregator(now: AggregatorSnapshot) -> Iterator[Metric]:
    yield _gauge("fedit_silos", "The silos of the charter.", len(now.silos))
    yield _gauge("fedit_silos_minimum", "What a sum needs at least.", now.minimum)
    yield _gauge(
        "fedit_silos_connected", "The silos that are connected.", now.connected
    )
    yield _gauge(
        "fedit_silos_ready", "Those that have tuned for this round.", now.ready
    )
    connected = GaugeMetricFamily(
        "fedit_silo_connected", "1 while this silo is connected.", labels=["silo"]
    )
    for silo in now.silos:
        connected.add_metric((silo.name,), float(silo.connected))
    yield connected
    through = {
        (silo.name, direction): amount
        for silo in now.silos
        for direction, amount in (
            ("sent", silo.traffic.sent),
            ("received", silo.traffic.received),
        )
    }
    yield _counter(
        "fedit_silo_bytes", "The same by silo.", ["silo", "direction"], through
    )
    voided = {(): now.attempts_voided}
    yield _counter(
        "fedit_attempts_voided", "Attempts that ended without a sum.", [], voided
    )


def _of_silo(now: SiloSnapshot) -> Iterator[Metric]:
    yield _gauge(
        "fedit_aggregator_connected",
        "1 while there is a connection to the aggregator.",
        float(now.connected),
    )
    yield _gauge("fedit_charges", "Charges that this run has made.", now.charges)
    yield _gauge("fedit_charges_planned", "Charges that it may make.", now.planned)
    labels = ["covers", "delta"]
    spent = GaugeMetricFamily(
        "fedit_epsilon_spent",
        "Epsilon spent under a cap; infinite without differential privacy.",
        labels=labels,
    )
    limit = GaugeMetricFamily(
        "fedit_epsilon_cap", "The cap; absent where there is none.", labels=labels
    )
    for cap in now.caps:
        where = (cap.covers, f"{cap.delta:g}")
        spent.add_metric(where, float("inf") if cap.spent is None else cap.spent)
        if cap.limit is not None:
            limit.add_metric(where, cap.limit)
    yield spent
    yield limit


def _heads(now: Snapshot) -> tuple[Head, ...]:
    if isinstance(now, AggregatorSnapshot):
        return now.heads
    return () if now.head is None else (now.head,)


def _gauge(
    name: str, what: str, value: float, labels: dict[str, str] | None = None
) -> Metric:
    labels = labels or {}
    family = GaugeMetricFamily(name, what, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(
    name: str, what: str, labels: list[str], values: dict[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for where, value in values.items():
        family.add_metric(where, value)
    return family
