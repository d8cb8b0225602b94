"""The lifetime cap over charters that were chosen in the light of earlier releases."""

from __future__ import annotations

import json
from dataclasses import replace

import dp_accounting as dpa
import pytest

from fedit_secure.errors import BudgetExhausted, StorageError
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.accountant import calibrate, epsilons
from fedit_secure.privacy.mechanisms import Mechanism, event_of
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.privacy.renyi import best_order, filter_epsilon

DELTA = 1e-6
STATE = f"{4:064x}"
PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.5,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=2,
    spare_charges=1,
    delta=DELTA,
)


def opened(cap: float) -> pl.Ledger:
    return pl.Ledger.open(
        pl.Opened(
            silo="north",
            identity="0a" * 32,
            population="ward",
            adjacency="zero-out",
            delta=DELTA,
            cap_epsilon=cap,
            filter_order=best_order(PLAN.run_event(), DELTA, cap),
            fingerprints="0b" * 32,
            software="test",
        )
    )


def charge(ledger: pl.Ledger, plan: DpPlan, charter: int, round: int) -> pl.Ledger:
    return ledger.reserve(
        plan,
        run="winter",
        round=round,
        charter=f"{charter:064x}",
        state_digest=STATE,
        weight=1,
    )


def test_attack_many_charters_each_admissible_alone() -> None:
    """An adversary picks each next charter by what is left, as large as is admitted."""
    cap = 4.0
    ledger = charge(opened(cap), PLAN, 1, 1)
    order = ledger.opened.filter_order
    menu = [
        replace(
            PLAN, sample_rate=q, noise_multiplier=sigma, local_steps=steps, rounds=1
        )
        for q, sigma, steps in (
            (0.05, 1.0, 8), (0.2, 4.0, 20), (1.0, 12.0, 4), (0.05, 1.5, 8),
        )
    ]  # fmt: skip
    assert all(plan.epsilons().published <= cap for plan in menu)
    charter = 1
    while menu and charter < 200:
        charter += 1
        try:
            ledger = charge(ledger, menu[0], charter, 1)
        except BudgetExhausted:
            del menu[0]  # what was refused once costs more ever after
    assert not menu
    everything = dpa.ComposedDpEvent(
        [PLAN.run_event()] + [i.event() for i in ledger.intents()[1:]]
    )
    assert 0.9 * cap < filter_epsilon(everything, order, DELTA) <= cap
    assert ledger.spent().published <= cap
    # A composition theorem that presumes a choice made beforehand would admit more.
    assert epsilons(everything, DELTA).published < 0.95 * cap


def test_the_sum_of_what_each_costs_alone_is_no_measure() -> None:
    """Neither too little nor too much is counted: the filter is held at every charge."""
    ledger, cap = opened(3.0), 3.0
    for charter in range(1, 100):
        before = ledger.would_cost(PLAN, charter=f"{charter:064x}")
        try:
            ledger = charge(ledger, PLAN, charter, 1)
        except BudgetExhausted:
            assert before > cap
            break
        assert before <= cap
    else:
        pytest.fail("the cap was never reached")
    assert charter > 2


def test_attack_the_order_is_changed_after_opening() -> None:
    ledger = charge(opened(6.0), PLAN, 1, 1)
    other = ledger.opened.filter_order + 1
    again = ledger.opened.model_copy(update={"filter_order": other})
    with pytest.raises(StorageError, match="opened once"):
        ledger.append(again)
    with pytest.raises(pl.LedgerCorrupt, match="opened once"):
        pl.Ledger.from_entries("ward", [*ledger.entries, again.to_bytes()])
    # Written anew from its first entry on, it is another chain than the one that every
    # other party signed for.
    forged = pl.Ledger.from_entries("ward", [again.to_bytes(), *ledger.entries[1:]])
    with pytest.raises(pl.LedgerCorrupt, match="another hash"):
        forged.require_head(ledger.sequence, ledger.hash)
    lifted = ledger.append(
        pl.CapChanged(cap_epsilon=9.0, reason="board, 2 May", signature="0" * 128)
    )
    assert lifted.opened.filter_order == ledger.opened.filter_order
    assert "filter_order" not in json.loads(lifted.entries[-1])


@pytest.mark.parametrize("order", [None, 12.0])
@pytest.mark.parametrize("target", [2.0, 5.0])
@pytest.mark.parametrize(
    ("spent", "rate", "steps"),
    [
        (Mechanism(0.05, 3.0, 100), 0.05, 100),
        (Mechanism(0.02, 1.5, 40), 0.3, 12),
        (Mechanism(1.0, 30.0, 8), 0.05, 24),
    ],
)
def test_calibration_under_what_is_spent_never_exceeds_and_is_tight(
    spent: Mechanism, rate: float, steps: int, target: float, order: float | None
) -> None:
    before = event_of([spent])
    sigma = calibrate(target, DELTA, rate, steps, spent=before, filter_order=order)

    def together(noise: float) -> float:
        event = dpa.ComposedDpEvent([before, event_of([Mechanism(rate, noise, steps)])])
        published = epsilons(event, DELTA).published
        by_filter = 0.0 if order is None else filter_epsilon(event, order, DELTA)
        return max(published, by_filter)

    assert together(sigma) <= target < together(round(sigma - 1e-4, 4))
