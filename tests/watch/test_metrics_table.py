"""The operator's guide lists the metrics that there are, with their labels, and no other."""

from __future__ import annotations

from test_docs import rows
from watch.exposed import exposed_by
from watch.sample_snapshots import a_silo, an_aggregator


def test_the_operators_guide_lists_every_metric() -> None:
    told = {
        name.strip("`"): (set(filter(None, labels.split(", "))), set(roles))
        for name, labels, roles, _ in rows("metric", "operator")
    }
    by_role = {"A": exposed_by(an_aggregator()), "S": exposed_by(a_silo())}
    there = {
        name: (labels, {r for r in by_role if name in by_role[r]})
        for of in by_role.values()
        for name, labels in of.items()
    }
    assert told == there
