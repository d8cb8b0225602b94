from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from fedit_secure.federation.charter import BaseModelRow, TemplateRow
from fedit_secure.federation.drafting import RunPlan, draft_charter
from fedit_secure.federation.identity import create_identity

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TODAY = NOW.date()
LAYOUT = (("layer.0.lora_A", (2, 3)), ("layer.0.lora_B", (4, 2)))
# One sample rate for all: each other one would take a calibration of its own.
BATCHES = {"clinic-a": 64, "clinic-b": 32, "clinic-c": 128, "clinic-d": 64}
RECORDS = {"clinic-a": 800, "clinic-b": 400, "clinic-c": 1600, "clinic-d": 800}


@pytest.fixture(scope="session")
def parties(tmp_path_factory):
    """Identities by name: four silos and the aggregator."""
    folder = tmp_path_factory.mktemp("parties")
    made = {
        name: create_identity(
            folder / name, name, "silo", f"it@{name}.example", now=NOW, records=records
        )
        for name, records in RECORDS.items()
    }
    made["hub"] = create_identity(folder / "hub", "hub", "aggregator", "x", now=NOW)
    return made


@pytest.fixture(scope="session")
def cards(parties):
    return [identity.card for identity in parties.values()]


def _plan(**changes):
    fields = {
        "federation": "north",
        "run": "first",
        "aggregator": "hub.example.org:7443",
        "base_model": "base",
        "rounds": 3,
        "expires": date(2027, 1, 31),
        "tuning": {"learning_rate": 1e-3, "local_steps": 8},
        "dp": {"epsilon": 8, "delta": 1e-6, "expected_batch": BATCHES},
    }
    return RunPlan.model_validate(fields | changes)


def _charter(plan, cards, **changes):
    given = {
        "base_model": BaseModelRow(name="base", digest="ab" * 32),
        "template": TemplateRow(name="alpaca", digest="cd" * 32),
        "layout": LAYOUT,
        "initial_digest": b"\x01" * 32,
        "today": TODAY,
    }
    return draft_charter(plan, cards, **(given | changes))


@pytest.fixture(scope="session")
def make_plan():
    """A plan, with some of its fields changed."""
    return _plan


@pytest.fixture(scope="session")
def make_charter():
    """The charter of a plan and cards, with some of the other arguments changed."""
    return _charter


@pytest.fixture(scope="session")
def charter(cards):
    return _charter(_plan(), cards)
