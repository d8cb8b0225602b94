"""Alert rules and dashboard speak of metrics that there are, and rules can fire."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from watch.sample_snapshots import a_silo, an_aggregator

from fedit_secure.watch.metrics import Metrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
NAME = re.compile(r"\bfedit_\w+")


def exposed() -> dict[str, set[str]]:
    """The samples of both roles, with the labels of each."""
    found: dict[str, set[str]] = {}
    for snapshot in (an_aggregator(), a_silo()):
        metrics = Metrics()
        metrics.follow(lambda snapshot=snapshot: snapshot)  # type: ignore[misc]
        metrics.phase_ended("mask", 1.0)
        text, _ = metrics.exposition("")
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", text.decode(), re.M):
            keys = set(re.findall(r'(\w+)="', labels))
            found[name] = found.get(name, set()) | keys
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_alert_is_of_metrics_and_labels_that_there_are(
    rule: dict[str, Any],
) -> None:
    known = exposed()
    names = NAME.findall(rule["expr"])
    assert names or rule["alert"] == "FeditDown"
    assert set(names) <= set(known), set(names) - set(known)
    # What a sentence names has to be a label that the expression keeps.
    first = known[names[0]] if names else {"job"}
    told = json.dumps(rule["annotations"])
    assert set(re.findall(r"\$labels\.(\w+)", told)) <= first | {"instance"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}


def test_what_was_asked_for_is_alerted_on() -> None:
    by = {rule["alert"]: rule["expr"] for rule in rules()}
    assert len(by) == len(rules())
    for days in (30, 7, 1):
        limit = f"{days} * 86400" if days > 1 else "86400"
        assert f"fedit_certificate_expiry_seconds < {limit}" in by.values()
    for share in ("0.8", "0.95"):
        assert f"fedit_epsilon_spent / fedit_epsilon_cap > {share}" in by.values()


def test_every_panel_is_of_metrics_that_there_are() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    known = exposed()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    for panel in panels:
        names = {n for t in panel["targets"] for n in NAME.findall(t["expr"])}
        assert names, panel["title"]
        assert names <= set(known), (panel["title"], names - set(known))
        assert panel["datasource"]["uid"] == "${source}"
    asked = NAME.findall(json.dumps(dashboard["templating"]))
    assert set(asked) <= set(known)


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool isn't installed")
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
