"""What lost and inherited charges cost: never less than what they stand for."""

from __future__ import annotations

import math

import pytest

from fedit_secure.errors import BudgetExhausted
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.accountant import spent_epsilons
from fedit_secure.privacy.carried_over import CarriedCharge
from fedit_secure.privacy.mechanisms import steps_event
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.privacy.renyi import filter_epsilon

DELTA = 1e-6
PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.5,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=3,
    spare_charges=1,
    delta=DELTA,
)
CHARTER = "01" * 32


def opened(order: float = 4.0, cap: float | None = 8.0) -> pl.Ledger:
    return pl.Ledger.open(
        pl.Opened(
            silo="north",
            identity="0a" * 32,
            population="ward",
            adjacency="zero-out",
            delta=DELTA,
            cap_epsilon=cap,
            filter_order=order,
            fingerprints="0b" * 32,
            software="x",
        )
    )


def heirloom(source: str = "other", times: int = 4, **change: object) -> pl.Inherited:
    fields = {
        "source": source,
        "sequence": 5,
        "hash": "0c" * 32,
        "unit": "record",
        "filter_order": 4.0,
        "charges": (
            CarriedCharge(sample_rate=0.05, noise_multiplier=1.5, steps=8, times=times),
        ),
        "lost": 0.0,
        "reason": "x",
        "signature": "00" * 64,
    }
    return pl.Inherited.model_validate({**fields, **change})


def lost(epsilon: float | None) -> pl.Lost:
    return pl.Lost(epsilon=epsilon, reason="x", signature="00" * 64)


def charge(ledger: pl.Ledger, round: int = 1) -> pl.Ledger:
    return ledger.reserve(
        PLAN, run="r", round=round, charter=CHARTER, state_digest="02" * 32, weight=1,
        cap_epsilon=None,
    )  # fmt: skip


def event(times: int):
    return steps_event(0.05, 1.5, 8 * times)


def test_inherited_charges_compose_with_ones_own() -> None:
    ledger = charge(opened(cap=None).append(heirloom(times=4)))
    assert ledger.spent() == spent_epsilons(event(5), DELTA)
    assert (
        ledger.charged_event()
        == charge(opened(cap=None).append(heirloom())).charged_event()
    )


def test_the_first_charter_of_an_heir_takes_the_filter() -> None:
    """Its plan was drawn up after the source's releases were seen."""
    ledger = opened().append(heirloom(times=4))
    assert ledger.would_cost(PLAN) == filter_epsilon(event(8), 4.0, DELTA)
    assert ledger.would_cost(PLAN) > spent_epsilons(event(8), DELTA).published


@pytest.mark.parametrize(("own", "source"), [(3.0, 20.0), (20.0, 3.0)])
def test_the_strictest_of_the_orders_decides(own: float, source: float) -> None:
    """A record of both populations has the source's filter, one of the heir alone its
    own: each was fixed before that record's first release."""
    ledger = opened(own).append(heirloom(filter_order=source))
    both = [filter_epsilon(event(8), order, DELTA) for order in (own, source)]
    assert abs(both[0] - both[1]) > 0.1
    assert ledger.would_cost(PLAN) == max(both)


def test_several_sources_add_up_and_a_later_entry_replaces_an_earlier() -> None:
    ledger = opened(cap=None)
    for entry in (heirloom("a", 1), heirloom("b", 2), heirloom("a", 3, sequence=9)):
        ledger = ledger.append(entry)
    assert ledger.spent() == spent_epsilons(event(5), DELTA)


def test_a_loss_is_added_to_every_figure() -> None:
    plain = charge(opened(cap=None)).spent()
    ledger = opened().append(lost(8.0))
    raised = ledger.append(
        pl.CapChanged(cap_epsilon=50.0, reason="x", signature="00" * 64)
    )
    with pytest.raises(BudgetExhausted):
        charge(ledger)
    spent = charge(raised).spent()
    assert plain.pld is not None
    assert plain.prv is not None
    assert spent.pld == plain.pld + 8
    assert spent.prv == plain.prv + 8
    assert spent.rdp == plain.rdp + 8
    expected = filter_epsilon(PLAN.run_event(), 4.0, DELTA) + 8
    assert raised.would_cost(PLAN) == pytest.approx(expected)
    # Once begun, the charter costs no less, and no more.
    begun = charge(raised)
    assert begun.would_cost(PLAN, charter=CHARTER) == pytest.approx(expected)


def test_what_a_source_lost_is_lost_to_the_heir() -> None:
    ledger = opened().append(heirloom(lost=3.0))
    whole = spent_epsilons(event(4), DELTA).published
    assert ledger.spent().published == pytest.approx(whole + 3)
    expected = filter_epsilon(event(8), 4.0, DELTA) + 3
    assert ledger.would_cost(PLAN) == pytest.approx(expected)


@pytest.mark.parametrize(
    "entry",
    [
        lost(None),
        heirloom(lost=None),
        heirloom(
            charges=(
                CarriedCharge(sample_rate=1.0, noise_multiplier=0.0, steps=8, times=1),
            )
        ),
    ],
    ids=["lost", "a source's loss", "a source without privacy"],
)
def test_what_nothing_bounds_stays_unbounded(entry: pl.Event) -> None:
    ledger = opened(cap=None).append(entry)
    assert ledger.spent().published == math.inf
    assert ledger.would_cost(PLAN) == math.inf
    with pytest.raises(BudgetExhausted):
        ledger.require_budget(PLAN, cap_epsilon=1e6)
