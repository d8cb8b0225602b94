"""How long certificates hold, and when they are renewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fedit_secure.federation.certificates import LEAF_DAYS, leaf_end
from fedit_secure.federation.identity import create_identity, issue_leaf
from fedit_secure.federation.lifetimes import renewal_due, seconds_left

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = 86_400


@pytest.fixture
def clinic(tmp_path):
    return create_identity(tmp_path / "a", "a", "silo", "x", now=NOW, valid_days=365)


def test_seconds_left_of_each_certificate(clinic):
    _, chain = issue_leaf(clinic, (), NOW)
    left = seconds_left(clinic.card, NOW, chain)
    assert left == {"issuer": 365 * DAY, "card": 365.5 * DAY, "leaf": LEAF_DAYS * DAY}
    late = seconds_left(clinic.card, NOW + timedelta(days=366), chain)
    assert late == {"issuer": -DAY, "card": -DAY / 2, "leaf": (LEAF_DAYS - 366) * DAY}
    assert "leaf" not in seconds_left(clinic.card, NOW)


def test_the_card_ends_with_the_check_that_refuses_it(clinic):
    last = clinic.card.expires
    for day, valid in ((last, True), (last + timedelta(days=1), False)):
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        assert (seconds_left(clinic.card, moment)["card"] > 0) is valid
        assert (clinic.card.expires >= moment.date()) is valid


def test_a_leaf_is_due_after_two_thirds_of_its_life(clinic):
    _, chain = issue_leaf(clinic, (), NOW)
    due = renewal_due(chain)
    assert timedelta(days=59) < due - NOW < timedelta(days=61)
    # Near the issuer's own end leaves are shorter, and due sooner.
    late = NOW + timedelta(days=355)
    _, chain = issue_leaf(clinic, (), late)
    assert leaf_end(chain) == NOW + timedelta(days=365)
    assert late < renewal_due(chain) < leaf_end(chain)
