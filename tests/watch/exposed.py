"""The metrics that a daemon exposes, by name and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from fedit_secure.watch.metrics import Metrics
from fedit_secure.watch.snapshot import Snapshot


def exposed_by(snapshot: Snapshot) -> dict[str, set[str]]:
    """Each with its labels; a histogram by the name of all its parts."""
    metrics = Metrics()
    metrics.follow(lambda: snapshot)
    metrics.phase_ended("mask", 1.0)
    text, _ = metrics.exposition("")
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            name, labels = sample.name, set(sample.labels)
            if family.type == "histogram":
                name, labels = family.name, labels - {"le"}
            if not sample.name.endswith("_created"):
                found[name] = found.get(name, set()) | labels
    return found
